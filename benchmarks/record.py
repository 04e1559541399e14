"A row of `results.csv` for each number: what was measured, on which machine, with which versions and seed."
import csv, platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import torch

columns = 'date,machine,threads,torch,library,benchmark,case,name,metric,value,low,high,seed'.split(',')

def machine(device='cpu'):
    "The graphics card's or the processor's name"
    if device == 'cuda': return torch.cuda.get_device_name()
    names = [l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name')] if Path('/proc/cpuinfo').exists() else []
    return names[0] if names else platform.processor()

def release(package):
    "A library's name and version"
    try: return f'{package} {version(package)}'
    except PackageNotFoundError: return package             # run from source

def record(
    out,                # file that rows are added to; '': none
    benchmark:str,      # which benchmark
    case:str,           # its setting: 'net=digits batch=64'
    name:str,           # who was measured
    numbers:dict,       # metric: value, or metric: (value, low, high); what has a unit names it, as seconds_per_step
    seed:int,           # of all that was random
    library='cfg_edu',  # package that `name` comes from
    device='cpu',       # 'cpu' or 'cuda'
):
    "Adds a row for each number."
    if not out: return
    fmt = lambda o: '' if o is None else f'{o:.6g}'
    about = [date.today(), machine(device), torch.get_num_threads(), torch.__version__, release(library), benchmark, case, name]
    rows = [[*about, k, *map(fmt, o if isinstance(o, tuple) else (o, None, None)), seed] for k, o in numbers.items() if o is not None]
    new = not Path(out).exists()
    with open(out, 'a', newline='', encoding='utf-8') as f: csv.writer(f, lineterminator='\n').writerows([columns, *rows] if new else rows)
