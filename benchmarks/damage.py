"""
Files with one wrong bit, or cut short, at random places (Linux): each must be refused by name, made again, or do no harm:

    python -m benchmarks damage --each 20
"""
import csv, gzip, json, os, random, shutil, signal, sys, tarfile, time
from functools import partial
from hashlib import md5
from io import BytesIO
from pathlib import Path
from pickle import dumps
from struct import pack
from tempfile import TemporaryDirectory
from unittest.mock import patch
import numpy as np, torch, torchvision
from fastcore.script import call_parse
from cfg_edu import cli, data, metrics, nets
from .faults import end, pictures, start
from .hostile import attempt
from .record import machine

def cut_off(f, at, found):
    "`f` in a process of its own, killed as soon as `found(at)` files are there"
    pid = start(f, slow=True)
    while not found(at): time.sleep(.01)
    os.kill(pid, signal.SIGKILL)
    end(pid)

def mnist(folder):
    "Files of MNIST's format, and the checksums that torchvision shall expect"
    raw = folder/'MNIST'/'raw'
    raw.mkdir(parents=True)
    g = np.random.default_rng(0)
    for part, n in dict(train=200, t10k=50).items():
        for name, a in {'images-idx3': g.integers(0, 255, (n, 28, 28), np.uint8), 'labels-idx1': g.integers(0, 10, n, np.uint8)}.items():
            (raw/f'{part}-{name}-ubyte.gz').write_bytes(gzip.compress(pack('>HBB', 0, 8, a.ndim) + pack(f'>{a.ndim}I', *a.shape) + a.tobytes()))
    return [(f.name, md5(f.read_bytes(), usedforsecurity=False).hexdigest()) for f in sorted(raw.iterdir())]

def cifar(folder):
    "An archive of CIFAR-10's format, and the checksums that torchvision shall expect"
    folder.mkdir()
    g, names, sums = np.random.default_rng(0), [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch'], {}
    with tarfile.open(folder/'cifar-10-python.tar.gz', 'w:gz') as tar:
        for name in [*names, 'batches.meta']:
            body = dumps(dict(label_names=list('abcdefghij')) if name == 'batches.meta' else dict(data=g.integers(0, 255, (20, 3072), np.uint8), labels=g.integers(0, 10, 20).tolist()))
            info = tarfile.TarInfo(f'cifar-10-batches-py/{name}')
            info.size, sums[name] = len(body), md5(body, usedforsecurity=False).hexdigest()
            tar.addfile(info, BytesIO(body))
    whole = md5((folder/'cifar-10-python.tar.gz').read_bytes(), usedforsecurity=False).hexdigest()
    return dict(tgz_md5=whole, train_list=[[n, sums[n]] for n in names[:5]], test_list=[['test_batch', sums['test_batch']]], meta=dict(filename='batches.meta', key='label_names', md5=sums['batches.meta']))

def numbers(folder):
    "What is in the caches, samples, weights and rows of a folder, without dates and seconds"
    out = {}
    for p in sorted(folder.rglob('*')):
        if p.suffix == '.npz':
            with np.load(p) as z: out[p.name] = [(k, z[k].tobytes()) for k in z.files]
        elif p.suffix in ('.npy', '.safetensors'): out[p.name] = p.read_bytes()
        elif p.suffix == '.csv':
            with p.open() as f: out[p.name] = [{k: v for k, v in r.items() if k != 'seconds'} for r in csv.DictReader(f)]
    return out

def tensors(dls): return [tuple(t.numpy().tobytes() for t in o.tensors) for o in (dls.train_ds, dls.valid_ds)]

def cases(top):
    "(what, a folder with the files, those that are damaged, what is asked of it, which answers with what it found or leaves it in the folder)"
    run, small = top/'run', partial(cli.cfg_sample, n=6, n_steps=3, bs=2)
    if end(start(lambda: cli.cfg_train('digits', str(run), steps=4, every=2))): sys.exit('training does not run at all')
    def sampled(d): small(str(d/'run'), out=str(d/'s.npz'))
    def sub(name, *of):
        d = top/name
        d.mkdir()
        for o in of: shutil.copytree(o, d/o.name) if o.is_dir() else shutil.copy(o, d/o.name)
        return d
    yield 'weights', sub('weights', run), ['run/ema.safetensors'], sampled
    yield 'configuration', sub('configuration', run), ['run/config.json'], sampled
    d = sub('checkpoint', run)
    for n in ('ema', 'model'): (d/'run'/f'{n}.safetensors').unlink()
    yield 'checkpoint', d, ['run/last.ckpt'], lambda d: cli.cfg_train('digits', str(d/'run'), steps=4, every=2)
    d = sub('shards', run)
    cut_off(lambda: sampled(d), d, lambda d: len(list(d.glob('parts_*/*.npz'))) == 2)
    yield 'shards of samples', d, [str(p.relative_to(d)) for p in d.glob('parts_*/*.npz')], sampled
    d = sub('samples', run)
    end(start(lambda: cli.cfg_sample(str(d/'run'), n=120, n_steps=2, out=str(d/'s.npz'))))
    yield 'samples that are judged', d, ['s.npz'], lambda d: cli.cfg_evaluate(str(d/'s.npz'), data='digits')
    pictures(top/'pictures', 1300)
    d = sub('begun')
    cut_off(lambda: cli.cfg_prepare(str(top/'pictures'), str(d/'cache'), 16, 1), d, lambda d: (d/'cache'/'progress.json').exists())
    prepare = lambda d: cli.cfg_prepare(str(top/'pictures'), str(d/'cache'), 16, 1)
    yield 'a cache that is begun', d, [f'cache/{n}' for n in ('images.npy.part', 'labels.npy.part', 'progress.json')], prepare
    d = sub('cache')
    end(start(lambda: prepare(d)))
    yield 'a cache', d, [f'cache/{n}' for n in ('images.npy', 'labels.npy', 'meta.json')], prepare
    d = sub('judges')
    def judged(d):
        os.environ['CFG_EDU_CACHE'] = str(d)
        metrics._made.cache_clear()
        return [v.numpy().tobytes() for v in metrics.get_judge('digits').net.state_dict().values()]
    judged(d)
    yield 'the weights of a judge', d, [p.name for p in d.iterdir()], judged
    d = sub('archive')
    g = np.random.default_rng(0)
    np.savez(d/'images.npz', arr_0=g.integers(0, 255, (1200, 8, 8, 3), np.uint8), arr_1=np.arange(1200)%5)
    yield 'an archive of images', d, ['images.npz'], lambda d: data.prepare(d/'images.npz', d/'cache', 8, 1, False)
    d = sub('statistics')
    x = g.normal(size=(90, 64))
    np.savez(d/'reference.npz', mu=x.mean(0), sigma=np.cov(x.T))
    yield 'statistics of real images', d, ['reference.npz'], lambda d: [getattr(metrics.reference(d/'reference.npz', 'digits'), k).numpy().tobytes() for k in ('mu', 'cov')]
    d = sub('published')
    torch.save(nets.unet_digits().state_dict(), d/'weights.pt')
    yield 'published weights', d, ['weights.pt'], lambda d: [v.numpy().tobytes() for v in nets.load_weights(nets.unet_digits(), d/'weights.pt').state_dict().values()]
    d = sub('mnist')
    sums = mnist(d/'data')
    def digits(d):
        with patch.object(torchvision.datasets.MNIST, 'resources', sums), patch.object(torchvision.datasets.MNIST, 'mirrors', ['http://127.0.0.1:9/']): return tensors(data.mnist_dls(d/'data', bs=20))
    yield "MNIST's archives", d, [f'data/MNIST/raw/{n}' for n, _ in sums], digits
    d = sub('cifar')
    known = cifar(d/'data')
    def photographs(d):
        with patch.multiple(torchvision.datasets.CIFAR10, url='http://127.0.0.1:9/', **known): return tensors(data.cifar10_dls(d/'data', bs=20))
    yield "CIFAR-10's archive", d, ['data/cifar-10-python.tar.gz'], photographs

@call_parse
def damage(
    each:int=20,  # times that each kind of file is damaged: half of them a bit, half of them cut
    seed:int=0,   # of the places
    only:str='',  # kinds that contain this
):
    "One wrong bit, or a file cut short, at random places: how many were tried, refused by name, made again or harmless, and how many led to another result."
    rng, tried, broke = random.Random(seed), 0, 0
    print(f'{machine()}; {each} of each kind, seed {seed}')
    with TemporaryDirectory() as top:
        top = Path(top)
        for what, folder, files, ask in cases(top):
            if only not in what: continue
            def answer(d, note):
                got = ask(d)
                note.write_text(json.dumps([md5(repr(got if isinstance(got, list) else sorted(numbers(d).items())).encode(), usedforsecurity=False).hexdigest()]))
            def result(d, note=top/'note'):
                note.unlink(missing_ok=True)
                said, _ = attempt(lambda: answer(d, note), top/'none', 8000)
                return said, note.read_text() if note.exists() else None
            clean = top/'clean'
            shutil.copytree(folder, clean)
            said, want = result(clean)
            shutil.rmtree(clean)
            if said != 'accepted': sys.exit(f'{what}: does not work undamaged: {said}')
            counts = dict(refused=0, equal=0)
            for i in range(each):
                d = top/'damaged'
                shutil.copytree(folder, d)
                f = d/files[i//2%len(files)]
                body = bytearray(f.read_bytes())
                at = rng.randrange(len(body))
                if i%2: del body[at:]
                else: body[at] ^= 1 << rng.randrange(8)
                f.write_bytes(body)
                said, got = result(d)
                tried += 1
                how = f"{f.name}, {'cut' if i%2 else 'a bit'} at {at:,}"
                if said.startswith('refused') and (f.name.split('.')[0] in said or f'{f.parent} is damaged' in said or f.name.endswith('-ubyte.gz') and '*-ubyte.gz' in said): counts['refused'] += 1
                elif said == 'accepted' and got == want: counts['equal'] += 1
                else: broke += 1; print(f"BROKE {what}: {how}: " + (said[:200].replace(str(top), '…') if said != 'accepted' else 'another result'), flush=True)
                shutil.rmtree(d)
            print(f"{what:28} {each} damaged: {counts['refused']} refused by name, {counts['equal']} with the result of the undamaged one", flush=True)
    print(f'{tried-broke} of {tried} held')
    if broke: raise SystemExit(1)
