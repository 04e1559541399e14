"""
A few minutes of a GPU, spent well: what needs one, the most useful first, each job in a process of its own:

    python -m benchmarks gpu --minutes 9
    python -m benchmarks gpu --device cpu --minutes 30      # a rehearsal with tiny sizes: does every job run?

A job that no longer fits is left out. Called again, the command goes on with what is missing.
"""
import csv, subprocess, sys, time
from pathlib import Path
import torch
from fastcore.script import call_parse
from .record import machine, record

class Job:
    "What is run: `for_gpu` in at most `seconds`; `tiny` is the same job in a rehearsal."
    def __init__(self, seconds, for_gpu, tiny): self.seconds, self.for_gpu, self.tiny = seconds, for_gpu, tiny

step = 'benchmarks step --device {device} --net'
jobs = dict(  # by worth
    step=Job(200, f'{step} adm64 --batch 64 --precision bf16 --budget 180 --variants ours,ours+blocks,diffusers,guided+fp16,ours+last+blocks,diffusers+blocks,ours+graphs,ours+compile',
             f'{step} digits --batch 4 --precision fp32 --steps 1 --warmup 1 --variants ours,diffusers'),
    loop=Job(45, 'benchmarks loop --device {device} --net adm64 --batch 64 --steps 6 --rounds 3 --precision bf16', 'benchmarks loop --device {device} --net digits --batch 4 --steps 2 --rounds 1'),
    sampling=Job(75, 'benchmarks sampling --device {device} --net adm64 --batches 1,16,64 --calls 8 --rounds 2 --precision bf16', 'benchmarks sampling --device {device} --net digits --batches 2 --calls 3 --rounds 1'),
    glyphs=Job(330, 'benchmarks glyphs --device {device} --minutes 4', 'benchmarks glyphs --device {device} --minutes .05 --size 16 --n 640 --batch 64 --samples 62 --ws 1'),
    memory=Job(60, f'{step} adm64 --batch 128 --precision bf16 --steps 3 --warmup 1 --budget 50 --variants ours,ours+recompute', f'{step} digits --batch 8 --precision fp32 --steps 1 --warmup 1 --variants ours,ours+recompute'),
    half=Job(40, f'{step} adm64 --batch 64 --precision fp16 --steps 5 --budget 30 --variants ours', f'{step} digits --batch 4 --precision bf16 --steps 1 --warmup 1 --variants ours'),
    tests=Job(90, 'pytest -q -p no:cacheprovider tests/test_processes.py tests/test_sampling.py -k gpu', 'pytest -q -p no:cacheprovider tests/test_processes.py -k gpu'),
    growth=Job(60, 'benchmarks growth --device {device} --only pixels --limit 5', 'benchmarks growth --device {device} --only calls --repeats 1 --limit .2'),
)

def done(out, about):
    "Jobs that have a row in the file, from this machine with this PyTorch"
    if not out or not Path(out).exists(): return set()
    with open(out, newline='', encoding='utf-8') as f: return {r['name'] for r in csv.DictReader(f) if r['benchmark'] == 'gpu' and (r['machine'], r['torch']) == about}

@call_parse
def gpu(
    minutes:float=9.,  # in all
    device:str='cuda', # cuda; cpu rehearses with tiny sizes
    only:str='',       # jobs, between commas; none: all
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "What needs a GPU, by worth, in a few minutes; again: what was left out."
    if off := set(only.split(',')) - {'', *jobs}: raise SystemExit(f"only must name jobs among {', '.join(jobs)}, not {', '.join(sorted(off))}")
    if device == 'cuda' and not torch.cuda.is_available(): raise SystemExit('there is no GPU here: --device cpu rehearses')
    began, about = time.monotonic(), (machine(device), torch.__version__)
    names = [k for k in jobs if not only or k in only.split(',')]
    known, failed = done(out, about), []
    for name in names:
        job, left = jobs[name], 60*minutes - (time.monotonic()-began)
        wants = job.seconds if device == 'cuda' else 1
        if name in known: print(f'{name}: has its rows'); continue
        if left < wants: print(f'{name}: left out, wants {wants} s of the {max(left, 0):.0f} s left'); continue
        what = (job.for_gpu if device == 'cuda' else job.tiny).format(device=device).split()
        if what[0].startswith('benchmarks'): what += ['--out', str(out)]
        start = time.monotonic()
        try: code = subprocess.run([sys.executable, '-W', 'ignore', '-m', *what], timeout=left).returncode  # noqa: S603 (the table's own)
        except subprocess.TimeoutExpired: code = 'out of time'
        took = time.monotonic()-start
        print(f'{name}: {took:.0f} s' + (f', failed ({code})' if code else ''), flush=True)
        if code: failed.append(name)
        else: record(out, 'gpu', f'device={device}', name, dict(seconds=took), 0, device=device)
    print(f"{time.monotonic()-began:.0f} s in all" + (f"; failed: {', '.join(failed)}" if failed else ''))
    if failed: raise SystemExit(1)
