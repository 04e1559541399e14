"""
Files made to do harm: nothing in them may run, and memory must stay bounded (Linux):

    python -m benchmarks hostile
"""
import json, os, pickle, resource, shutil, struct, sys, zipfile, zlib
from pathlib import Path
from tempfile import TemporaryDirectory
import numpy as np, torch
from fastcore.script import call_parse
from cfg_edu import cli, data, metrics, nets
from cfg_edu.training import diffusion_learner
from .faults import end, start

class Evil:
    "Makes a file when it is unpickled"
    def __init__(self, canary): self.canary = canary
    def __reduce__(self): return os.system, (f'touch {self.canary}',)

def npy(shape, descr='|u1', body=b''):
    "An .npy that claims `shape`"
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b' '*(-(len(head)+11)%64) + b'\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + body

def bomb(path, name, head, size):
    "A zip whose member `name` is `head` and `size` zeros, a thousandth of that on the disk"
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z, z.open(name, 'w', force_zip64=True) as f:
        f.write(head)
        for _ in range(size >> 24): f.write(bytes(1 << 24))

def png(path, side):
    "A picture of side × side pixels in a few bytes"
    chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))

def attempt(f, canary, limit):
    "(what it said, MB it took beyond what there was): run in a process of its own, which may take `limit` MB more"
    r, w = os.pipe()
    if not (pid := os.fork()):
        try:
            os.close(r)
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (limit << 20),)*2)
            null = os.open(os.devnull, os.O_WRONLY)
            for o in (1, 2): os.dup2(null, o)
            try: f(); said = 'accepted'
            except (ValueError, OSError) as e: said = f'refused: {e}'
            except BaseException as e: said = f'{type(e).__name__}: {e}'
            os.write(w, json.dumps([said[:300], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)/1024]).encode())
        finally: os._exit(0)
    os.close(w)
    with os.fdopen(r) as o: text = o.read()
    code = end(pid)
    said, mb = json.loads(text) if text else (f'died: {code}', 0.)
    return said if not canary.exists() else 'RAN CODE', mb

@call_parse
def hostile(
    limit:int=3000, # MB that a reader may take
):
    "Files that would run code, fill the memory or lead elsewhere: each must be refused by name."
    held = tried = 0
    with TemporaryDirectory() as top:
        top, run = Path(top), Path(top)/'run'
        canary = top/'canary'
        evil = pickle.dumps(Evil(canary))
        if end(start(lambda: cli.cfg_train('digits', str(run), steps=2, every=1))): sys.exit('training does not run at all')
        folder = lambda name: (top/name).mkdir(exist_ok=True) or top/name

        def cases():
            p = top/'weights.pt'; p.write_bytes(evil)
            yield 'weights that are a pickle with code', p, lambda p: nets.load_weights(nets.unet_digits(), p)
            p = top/'zipped.pt'; torch.save(dict(a=Evil(canary)), p)
            yield "weights in torch's format with code", p, lambda p: nets.load_weights(nets.unet_digits(), p)
            p = top/'adm.pt'; torch.save(dict(a=Evil(canary)), p)
            yield 'ADM weights with code', p, nets.load_adm
            p = top/'run2'; shutil.copytree(run, p); (p/'ema.safetensors').write_bytes(evil)
            yield 'a run whose weights are a pickle', p, cli.load_run
            p = top/'run3'; shutil.copytree(run, p); (p/'ema.safetensors').write_bytes(struct.pack('<Q', 1 << 62) + b'{}')
            yield 'a run whose weights claim a header of 2^62 bytes', p, cli.load_run
            for key, value in dict(net='../../etc/passwd', shape=[1, 10**6, 10**6], n_classes=10**10).items():
                p = top/f'run-{key}'; shutil.copytree(run, p)
                c = json.loads((p/'config.json').read_text()); c[key] = value; del c['sum']; (p/'config.json').write_text(json.dumps(c))
                yield f'a configuration with {key} = {value}', p, cli.load_run
            p = top/'run4'; shutil.copytree(run, p); (p/'config.json').write_text('['*10**6)
            yield 'a configuration nested a million deep', p, cli.load_run
            p = top/'last.ckpt'; torch.save(dict(epochs=1, model=Evil(canary)), p)
            yield 'a checkpoint with code', p, lambda p: _learner().fit_resumable(2, p)
            p = folder('archive')
            for i in range(1, 11): (p/f'train_data_batch_{i}').write_bytes(evil)
            (p/'val_data').write_bytes(evil)
            yield 'the archive with code', p, lambda p: data.prepare(p, top/'cache', 8, 1, False)
            p = folder('archive2')
            for n in [f'train_data_batch_{i}' for i in range(1, 11)] + ['val_data']: (p/n).write_bytes(b'\x80\x04' + b'(' * 10**6 + b'.')
            yield 'the archive nested a million deep', p, lambda p: data.prepare(p, top/'cache', 8, 1, False)
            p = folder('archive3')
            for n in [f'train_data_batch_{i}' for i in range(1, 11)] + ['val_data']: (p/n).write_bytes(b'\x80\x04\x8e' + struct.pack('<Q', 1 << 50) + b'abc.')
            yield 'the archive with a text that claims 2^50 bytes', p, lambda p: data.prepare(p, top/'cache', 8, 1, False)
            p = top/'object.npz'; np.savez(p, arr_0=np.array([Evil(canary)], object), arr_1=np.zeros(1))
            for what, f in dict(data=lambda p: data.prepare(p, top/'cache', 8, 1, False), statistics=lambda p: metrics.reference(p, 'digits'), samples=cli._read_images).items(): yield f'{what}: an .npz of objects with code', p, f
            p = top/'bomb.npz'; bomb(p, 'arr_0.npy', npy((10**6, 64, 64, 3)), 6 << 30)
            for what, f in dict(data=lambda p: data.prepare(p, top/'cache', 64, 1, False), samples=cli._read_images).items(): yield f'{what}: an .npz of 6 GB of zeros in 6 MB', p, f
            p = top/'bomb2.npz'; bomb(p, 'mu.npy', npy((800_000_000,), '<f8'), 6 << 30)
            yield 'statistics: an .npz of 6 GB of zeros in 6 MB', p, lambda p: metrics.reference(p, 'digits')
            p = top/'claim.npz'
            with zipfile.ZipFile(p, 'w') as z:
                for n in ('arr_0', 'arr_1', 'mu', 'sigma'): z.writestr(f'{n}.npy', npy((10**12, 64, 64, 3)))
            for what, f in dict(data=lambda p: data.prepare(p, top/'cache', 64, 1, False), statistics=lambda p: metrics.reference(p, 'digits'), samples=cli._read_images).items(): yield f'{what}: an .npz that claims 10^16 numbers', p, f
            p = top/'long.npz'
            with zipfile.ZipFile(p, 'w') as z: z.writestr('arr_0.npy', b'\x93NUMPY\x02\x00' + struct.pack('<I', 2**31) + b' '*1000); z.writestr('arr_1.npy', npy((1,)))
            yield 'data: an .npz with a header of 2 GB', p, lambda p: data.prepare(p, top/'cache', 8, 1, False)
            for side in (20_000, 100_000):
                p = folder(f'pictures{side}'); png(p/'a'/'1.png', side); png(p/'b'/'2.png', side)
                yield f'pictures of {side:,} pixels a side', p, lambda p: data.prepare(p, top/'cache', 8, 1, False)
            p = folder('cache2'); (p/'meta.json').write_bytes(data._sealed(dict(format=1, n=10**12, n_train=1, size=64, vocab=['a'], key='', fingerprint='', source=''))); (p/'images.npy').write_bytes(npy((10**12, 3, 64, 64))); (p/'labels.npy').write_bytes(npy((10**12,), '<i8'))
            yield 'a cache that claims 10^12 images', p, data.open_cache
            os.environ['CFG_EDU_CACHE'] = str(folder('judges'))
            yield 'a judge of its own with code', top, lambda p: _judge(p/'judges', evil)

        if attempt(lambda: pickle.loads(evil), canary, limit)[0] != 'RAN CODE': sys.exit('the trap does not work')
        canary.unlink()
        for what, p, f in cases():
            said, mb = attempt(lambda: f(p), canary, limit)
            ok = said.startswith("refused") and Path(p).name.split(".")[0] in said and mb < 500
            if what.startswith('a judge'): ok = said == 'accepted' or said.startswith('refused')       # it may be made anew
            tried, held = tried+1, held+ok
            canary.unlink(missing_ok=True)
            print(f"{'held ' if ok else 'BROKE'} {mb:6.0f} MB  {what}: {said[:170].replace(str(top), '…')}", flush=True)
    print(f'{held} of {tried} held')
    if held < tried: raise SystemExit(1)

def _learner(): return diffusion_learner(data.digits_dls(), nets.unet_digits())

def _judge(folder, evil):
    "Replaces what the digits' judge has stored by `evil`, and asks for it"
    for _ in range(2):
        metrics._made.cache_clear()
        metrics.get_judge('digits')
        files = [p for p in folder.rglob('*') if p.is_file()]
        if not files: raise RuntimeError('the judge stores nothing here')
        for p in files: p.write_bytes(evil)
