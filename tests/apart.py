"Work in a process apart: to kill it, to bound its memory, to see what it says in the end; and what it left on the disk."
import csv, io, json, multiprocessing, os, resource, time
from functools import partial
from pathlib import Path
import numpy as np, torch
from PIL import Image
from safetensors.torch import load_file


def start(f, slow=False):
    "`f` in a process of its own, silent, on a `slow` disk if asked for; its number"
    if pid := os.fork(): return pid
    try:
        multiprocessing.set_start_method('fork', force=True)    # its parent's fork server is none of its own
        if slow:                                # files are being written for a good part of the time
            os.fsync = lambda fd: time.sleep(.4)
            torch.save = partial(halting, torch.save)
        null = os.open(os.devnull, os.O_WRONLY)
        for o in (1, 2): os.dup2(null, o)
        f()
        os._exit(0)
    except BaseException: os._exit(1)


def halting(save, o, f):
    "`torch.save` to a disk that stops in the middle of the file"
    b = io.BytesIO()
    save(o, b)
    b = b.getvalue()
    f.write(b[:len(b)//2])
    f.flush()
    time.sleep(.6)
    f.write(b[len(b)//2:])


def end(pid):
    "How it ended: 0 well, else what went wrong"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def attempt(f, canary=Path('/nonexistent'), limit=3000):
    """What `f` said in a process that may take `limit` MB more, and how many it took: 'accepted', 'refused: …', or the name of another exception;
    'RAN CODE' where `canary` is there afterwards"""
    r, w = os.pipe()
    if not (pid := os.fork()):
        try:
            os.close(r)
            multiprocessing.set_start_method('fork', force=True)
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (limit << 20),)*2)
            null = os.open(os.devnull, os.O_WRONLY)
            for o in (1, 2): os.dup2(null, o)
            try:
                f()
                said = 'accepted'
            except (ValueError, OSError, FloatingPointError) as e: said = f'refused: {e}'
            except BaseException as e: said = f'{type(e).__name__}: {e}'
            took = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)/1024
            os.write(w, json.dumps([said[:400], took]).encode())
        finally: os._exit(0)
    os.close(w)
    with os.fdopen(r) as o: text = o.read()
    code = end(pid)
    said, mb = json.loads(text) if text else (f'died: {code}', 0.)
    return said if not canary.exists() else 'RAN CODE', mb


def _rows(p):
    with p.open() as f: return [{k: v for k, v in r.items() if k not in ('seconds', 'time')} for r in csv.DictReader(f)]

def _npz(p):
    with np.load(p) as z: return [z[k] for k in z.files]

readers = {'.json': lambda p: json.loads(p.read_text()), '.safetensors': load_file, '.csv': _rows, '.npz': _npz, '.npy': np.load,
           '.ckpt': lambda p: torch.load(p, weights_only=True), '.png': lambda p: Image.open(p).verify()}


def whole(folder):
    "How many files have their final name; raises for one that cannot be read"
    files = [p for p in sorted(folder.rglob('*')) if p.is_file() and p.suffix in readers]
    for p in files: readers[p.suffix](p)
    return len(files)


def left(folder):
    "Files that were being written"
    return sorted(folder.rglob('*.part')) if folder.exists() else []


def same(a, b):
    "Names of the files of `a` that differ in `b`, seconds and dates apart"
    out = []
    for p in sorted(a.rglob('*')):
        q = b/p.relative_to(a)
        if not p.is_file() or p.suffix not in readers or p.name == 'config.json': continue
        if not q.exists():
            out.append(f'{p.name} is missing')
            continue
        if p.suffix == '.csv': x, y = _rows(p), _rows(q)
        elif p.suffix == '.ckpt': x, y = ([v.numpy().tobytes() for k in ('model', 'ema') for v in readers['.ckpt'](o)[k].values()] for o in (p, q))
        elif p.suffix == '.json': x, y = ({k: v for k, v in readers['.json'](o).items() if k not in ('versions', 'out', 'source')} for o in (p, q))
        else: x, y = p.read_bytes(), q.read_bytes()
        if x != y: out.append(p.name)
    return out


def pictures(folder, n=240, side=(40, 48)):
    "Three classes of noise, as files"
    g = np.random.default_rng(0)
    for i in range(n):
        p = folder/f'class{i%3}'/f'{i:04}.png'
        p.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 255, (*side, 3), dtype=np.uint8)).save(p)
    return folder
