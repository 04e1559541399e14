"""
Work that is killed at random moments, again and again, and must end as if nothing had happened (Linux):

    python -m benchmarks faults --kills 60
"""
import csv, io, json, os, random, resource, signal, sys, time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
import numpy as np, torch
from fastcore.script import call_parse
from PIL import Image
from safetensors.torch import load_file
from cfg_edu import cli
from .record import machine

def start(f, slow=False):
    "`f` in a process of its own, silent, with a `slow` disk if asked for; its number"
    if pid := os.fork(): return pid
    try:
        if slow:                                            # files are being written for a good part of the time
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
    f.write(b[:len(b)//2]); f.flush()
    time.sleep(.6)
    f.write(b[len(b)//2:])

def end(pid):
    "How it ended: 0 well, else what went wrong"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

readers = {'.json': lambda p: json.loads(p.read_text()), '.safetensors': load_file, '.ckpt': lambda p: torch.load(p, weights_only=True), '.npz': lambda p: [v for v in np.load(p).values()],
           '.npy': np.load, '.csv': lambda p: list(csv.DictReader(p.open())), '.png': lambda p: Image.open(p).verify()}

def whole(folder):
    "How many files have their final name; raises for one that cannot be read"
    files = [p for p in sorted(folder.rglob('*')) if p.is_file() and p.suffix in readers]
    for p in files: readers[p.suffix](p)
    return len(files)

def left(folder):
    "Files that were being written"
    return [p for p in folder.rglob('*.part')] if folder.exists() else []

def same(a, b):
    "Names of the files that differ, seconds and dates apart"
    out = []
    for p in sorted(a.rglob('*')):
        q = b/p.relative_to(a)
        if not p.is_file() or p.suffix not in readers or p.name == 'config.json': continue
        if not q.exists(): out.append(f'{p.name} is missing'); continue
        if p.suffix == '.csv': x, y = ([{k: v for k, v in r.items() if k not in ('seconds', 'time')} for r in readers['.csv'](o)] for o in (p, q))
        elif p.suffix == '.ckpt': x, y = ([v.numpy().tobytes() for k in ('model', 'ema') for v in readers['.ckpt'](o)[k].values()] for o in (p, q))
        elif p.suffix == '.json': x, y = ({k: v for k, v in readers['.json'](o).items() if k not in ('versions', 'out', 'source', 'seconds')} for o in (p, q))
        else: x, y = p.read_bytes(), q.read_bytes()
        if x != y: out.append(p.name)
    return out

def outcome(f, note, before=lambda: None):
    "Starts `f` after `before`; what it says in the end is written to the file `note`"
    def run():
        before()
        try: f(); text = 'done'
        except (ValueError, OSError, FloatingPointError) as e: text = f'refused: {e}'
        except BaseException as e: text = f'{type(e).__name__}: {e}'
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        note.write_text(text)
    return start(run)

def full(size):
    "From now on no file may be larger than `size` bytes: to whoever writes, a full disk"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

def once(top, jobs):
    "Faults that need no chance: each with what must hold afterwards. Yields (what, held, what was said)"
    note = top/'note'
    def ended(pid): end(pid); return note.read_text() if note.exists() else 'died'
    for job, size in dict(train=200_000, sample=2000, prepare=300_000).items():
        out = top/f'full, {job}'
        said = ended(outcome(lambda: jobs[job](out), note, lambda: full(size)))
        held = said.startswith('refused') and ('no room is left' in said or 'for want of space' in said) and not left(out)*(job != 'prepare')
        if out.exists(): whole(out)
        again = ended(outcome(lambda: jobs[job](out), note))
        yield f'{job}: the disk is full, then has room again', held and again == 'done' and not same(top/job, out), said
    for job in ('train', 'sample', 'prepare'):
        out = top/f'locked, {job}'
        out.mkdir(mode=0o555)
        os.chmod(top, 0o755)  # noqa: S103
        note.unlink(missing_ok=True); note.touch(); os.chmod(note, 0o666)  # noqa: S103
        small = lambda o: cli.cfg_train('moons', str(o), steps=2, every=1, bs=8) if job == 'train' else jobs[job](o)    # the digits' file may lie in a home that the other user cannot read
        said = ended(outcome(lambda: small(out), note, lambda: os.setuid(65534) if os.getuid() == 0 else None))
        yield f'{job}: the folder may not be written to', said.startswith('refused') and not any(out.iterdir()), said
    for job in ('train', 'sweep'):
        out, other = top/f'twice, {job}', top/'other'
        first = outcome(lambda: jobs[job](out), note)
        while not (out/'.lock').exists(): time.sleep(.01)
        end(outcome(lambda: jobs[job](out), other))
        said, first = other.read_text(), ended(first)
        yield f'{job}: twice at once in one folder', said.startswith('refused') and 'another process' in said and first == 'done' and not same(top/job, out), said
    out = top/'worker'
    pid = outcome(lambda: cli.cfg_prepare(str(top/'many'), str(out), 32, 2), note)
    children = lambda: [int(o) for p in Path(f'/proc/{pid}/task').iterdir() for o in (p/'children').read_text().split()]
    while not (found := children()): time.sleep(.01)
    time.sleep(.3)
    os.kill(found[0], signal.SIGKILL)
    said = ended(pid)
    again = ended(outcome(lambda: cli.cfg_prepare(str(top/'many'), str(out), 32, 2), note))
    yield 'prepare: a process that reads pictures is killed', said.startswith('refused') and again == 'done', said
    out = top/'stopped'
    pid = outcome(lambda: jobs['train'](out), note)
    time.sleep(4)
    os.kill(pid, signal.SIGINT)
    said = ended(pid)
    again = ended(outcome(lambda: jobs['train'](out), note))
    yield 'train: Ctrl-C', said.startswith('KeyboardInterrupt') and again == 'done' and not same(top/'train', out), said

def pictures(folder, n=240):
    "Three classes of noise, as files"
    g = np.random.default_rng(0)
    for i in range(n):
        p = folder/f'class{i%3}'/f'{i:04}.png'
        p.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(p)

@call_parse
def faults(
    kills:int=60,   # in all, shared among the jobs
    seed:int=0,     # of the moments
):
    "Kills training, sampling, sweeping and preparing at random moments and goes on; what was done must be that of a run without kills."
    rng = random.Random(seed)
    print(f'{machine()}; {kills} kills, seed {seed}')
    broke = 0
    with TemporaryDirectory() as top:
        top = Path(top)
        pictures(top/'pictures')
        pictures(top/'many', 6000)
        trained = top/'trained'
        if end(start(lambda: cli.cfg_train('digits', str(trained), steps=20, every=10))): sys.exit('training does not run at all')
        jobs = dict(train=lambda o: cli.cfg_train('digits', str(o), steps=60, every=6), sample=lambda o: cli.cfg_sample(str(trained), n=400, bs=20, n_steps=8, out=str(o/'s.npz')),
                    sweep=lambda o: cli.cfg_tradeoff('digits', str(o), steps=20, ws='0,.5,1', n=200, n_steps=6), prepare=lambda o: cli.cfg_prepare(str(top/'pictures'), str(o), 32, 2))
        for job, f in jobs.items():
            t0, clean, out = time.perf_counter(), top/job, top/f'{job}, killed'
            if code := end(start(lambda: f(clean))): print(f'{job}: does not run: {code}'); broke += 1; continue
            took, done, halves, read = time.perf_counter()-t0, 0, Counter(), 0
            while done < -(-kills//len(jobs)):
                pid = start(lambda: f(out), slow=done%2)
                time.sleep(rng.uniform(.02, 1.)*took*rng.choice((.2, 1.)))
                os.kill(pid, signal.SIGKILL)
                code = end(pid)
                if code == 1: print(f'{job}: the rerun after {done} kills fails'); broke += 1; break
                if code == 0:                                           # it was faster: start anew
                    for p in sorted(out.rglob('*'), reverse=True): p.unlink() if p.is_file() else p.rmdir()
                    continue
                done += 1; halves.update(p.name.removesuffix('.part') for p in left(out)[:1])
                try: read += whole(out) if out.exists() else 0
                except Exception as e: print(f'{job}: half-written under its final name: {type(e).__name__}: {e}'); broke += 1; break
            halfway = ', '.join(f'{n} × {k}' for k, n in halves.most_common())
            code = end(start(lambda: f(out)))
            differ = same(clean, out) if code == 0 else [f'the last run ends with {code}']
            rest = left(out)
            broke += bool(differ) + bool(rest)
            print(f'{job:8} {took:5.1f} s without kills; {done} kills, {halves.total()} of them while a file was written ({halfway}); {read} files read in between, all whole; '
                  + (f'differs: {", ".join(differ)}' if differ else 'the end is that of a run without kills, bit for bit') + (f'; left over: {", ".join(p.name for p in rest)}' if rest else ''), flush=True)
        for what, held, said in once(top, jobs):
            broke += not held
            print(f"{'held ' if held else 'BROKE'} {what}: {said.replace(str(top), '…')[:200]}", flush=True)
    print('all held' if not broke else f'{broke} broke')
    if broke: raise SystemExit(1)
