"""
Guided images a second at equal FID: a network that is told the weight, in one pass, beside others' samplers, which ask one of the same size twice:

    python -m benchmarks onepass --seeds 0,1
"""
import time
from statistics import median
import torch
from fastcore.script import call_parse
from cfg_edu.conditions import Classes
from cfg_edu.data import digits_dls
from cfg_edu.guidance import CFG
from cfg_edu.metrics import evaluate, real_stats
from cfg_edu.onepass import ClassesAndW, OnePass, TellW
from . import rivals
from .late import train
from .quality import Chunks, ours
from .record import machine, record
from .sampling import Doubled

@call_parse
def onepass(
    seeds:str='0,1',       # of the trainings and samples
    steps:int=600,         # of the training, rounded up to hundreds
    told:int=800,          # of the training that tells w: a step of it costs 1.14 times as much, so all of it 1.5 times
    ws:str='.05,.1,.15,.2,.3,.5', # guidance weights, of which each network takes its best
    calls:str='5,6,8',     # of the model
    n:int=1000,            # samples that decide who is judged again
    final:int=8000,        # samples of the final judgement: the FID of a thousand scatters by a fifth
    keep:int=5,            # samplers and numbers of calls of each side that are judged again
    rounds:int=5,          # of the timing, in turns; medians
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Guided images a second at equal FID: asked once, told the weight, beside others' samplers that ask twice; digits."
    print(f'{machine()}, {torch.get_num_threads()} threads; digits, {steps} steps of training, told w {told}; {n} samples, {final} of the best')
    ref = real_stats(torch.cat([dl.dataset.tensors[0] for dl in digits_dls()]), 'digits')
    calls, ws = [int(o) for o in calls.split(',')], [float(o) for o in ws.split(',')]
    for seed in map(int, seeds.split(',')):
        two = train(steps, seed, cond=Classes)
        one = train(told, seed, [TellW()], cond=ClassesAndW)
        def judged(f, model, c, n, first):
            "FID of n samples whose noise has seeds from `first` on (ours: one each), and the calls made"
            parts = [f(model, (1000, 1, 8, 8), torch.arange(1000)%10, c, seed=first+1000*k, clip=(-1, 1)) for k in range(n//1000)]
            x = torch.cat([x for x, _ in parts])
            return evaluate(x, ref, torch.arange(len(x))%10, 'digits')['fid'] if x.isfinite().all() else float('inf'), parts[0][1]
        mine = {k: f for o in ours.values() for k, f in o.items()}
        def best_w(model, guide): return min(ws, key=lambda w: judged(mine['ours dpmpp_2m'], Chunks(guide(model, w)), 12, final//2, 100_000)[0])
        w, own = best_w(two, CFG), best_w(one, OnePass)
        print(f'seed {seed}: best weight, asked twice {w:g}, told {own:g}')
        sides = {'ours, one pass': (Chunks(OnePass(one, own), 128), 1, mine), 'ours, two passes': (Chunks(CFG(two, w)), 2, mine),    # 128 for the network in each
                 'theirs, two passes': (Chunks(Doubled(two, w)), 2, rivals.installed({**rivals.ode, **rivals.sde}))}
        rows, times = [], {}
        for side, (model, passes, all) in sides.items():
            first = []
            for name, f in all.items():
                for c in calls: first.append((*judged(f, model, c, n, 10_000*seed), name, c))
                print(f'seed {seed} {side:20} {name:40}' + ''.join(f'{r[0]:9.4f}' for r in first[-len(calls):]), flush=True)
            for _, made, name, c in sorted(first)[:keep]:   # with other noise, so that luck does not count
                fid, _ = judged(all[name], model, c, final, 200_000 + 10_000*seed)
                rows.append((fid, side, name, c, passes*made))
        for _ in range(rounds):
            for _, side, name, c, _ in rows:
                start = time.process_time()
                sides[side][2][name](sides[side][0], (256, 1, 8, 8), torch.arange(256)%10, c, seed=seed, clip=(-1, 1))
                times.setdefault((side, name, c), []).append(time.process_time()-start)
        for fid, side, name, c, passes in rows:
            t = times[side, name, c]
            print(f'seed {seed} {side:20} {name:40} {c} calls: FID {fid:.4f}, {256/median(t):6.0f} images/s', flush=True)
            case = f"data=digits w={own if 'one' in side else w:g} steps={told if 'one' in side else steps} calls={c} passes={passes} n={final}"
            record(out, 'onepass', case, f'{name}, {side}', dict(fid=fid, images_per_s=(256/median(t), 256/max(t), 256/min(t))), seed, name.split(',')[0].split(' ')[0].replace('ours', 'cfg_edu'))
