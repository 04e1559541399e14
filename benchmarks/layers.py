"""
What a network's own Python costs when there is but one image: its call, and that of its traced copy, against its plain layers (convolutions, norms, …), called one after another by hand:

    python -m benchmarks layers
    python -m benchmarks layers --nets small --threads 2
    python -m benchmarks layers --compiled
"""
import re, time
from copy import deepcopy
from statistics import median
import torch
from fastcore.script import call_parse
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode
from .contestants import stir
from .record import machine, record
from .sampling import nets as known

plain = nn.Conv2d, nn.Linear, nn.Embedding, nn.GroupNorm, nn.SiLU, nn.Dropout, nn.Identity, nn.Upsample, nn.AvgPool2d

class Tape(TorchFunctionMode):
    "Writes down what is called, in order: a plain layer as one, and each function between them."
    def __init__(self): self.calls, self.within = [], 0
    def __torch_function__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        if not self.within: self.calls.append((f, args, kwargs or {}, out))
        return out
    def __enter__(self):
        self.module = nn.Module.__call__
        def call(layer, *args, **kwargs):
            if self.within or not isinstance(layer, plain): return self.module(layer, *args, **kwargs)
            self.within += 1
            try: out = self.module(layer, *args, **kwargs)
            finally: self.within -= 1
            self.calls.append((layer, args, kwargs, out))
            return out
        nn.Module.__call__ = call
        return super().__enter__()
    def __exit__(self, *args):
        nn.Module.__call__ = self.module
        return super().__exit__(*args)

@torch.inference_mode()
def by_hand(
    net:nn.Module,  # whose Python always takes the same way
    *given,         # tensors it is called with
):                  # a function of such tensors, and its number of calls
    "`net` as someone would type it who knows all sizes: one line for each layer and each operation, nothing else."
    with Tape() as tape: result = net(*given)
    env, names, lines = {}, {id(o): f'given{i}' for i, o in enumerate(given)}, []
    def word(o):
        if isinstance(o, Tensor) and id(o) in names: return names[id(o)]
        if type(o) in (tuple, list): return f"({''.join(word(i)+',' for i in o)})"
        if type(o) is slice: return f'slice({word(o.start)},{word(o.stop)},{word(o.step)})'
        if type(o) in (int, float, bool, str, type(None)): return repr(o)
        env[name := f'held{len(env)}'] = o
        return name
    for f, args, kwargs, out in tape.calls:
        outs = [o for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, Tensor)]
        if not outs: continue                               # a size or a dtype was asked for
        said = ', '.join([word(o) for o in args] + [f'{k}={word(o)}' for k, o in kwargs.items()])
        for i, o in enumerate(outs): names[id(o)] = f't{len(lines)}_{i}'
        lines.append(f"    {', '.join(names[id(o)] for o in outs)}{',' if outs[0] is not out else ''} = {word(f)}({said})")
    over, last = [f'    return {names[id(result)]}'], {}
    for i, l in enumerate([*lines, *over]): last.update({t: i for t in re.findall(r'\bt\d+_\d+\b', l)})
    for t, i in last.items():                               # nothing is kept longer than a network keeps it
        if i < len(lines): lines[i] += f'; del {t}'
    ask = ', '.join(f'given{i}' for i in range(len(given)))
    exec('\n'.join([f'def f({ask}):', *lines, *over]), env)  # noqa: S102 (our own lines)
    return env['f'], len(lines)

def copied(
    net:nn.Module,
    backend:str,  # 'eager': the same operations, without the Python between them; 'inductor': compiled
)->nn.Module:     # a copy that is traced in its first call
    "`net`, through `torch.compile`."
    net = deepcopy(net)
    net.compile(backend=backend, dynamic=False)
    return net

@call_parse
def layers(
    nets:str='digits,mnist,small', # digits (8×8), mnist (28×28) and small (32×32), between commas
    batches:str='1,2',      # images in a call: guidance asks for one image twice
    threads:int=1,          # of the processor
    rounds:int=400,         # in turns; a tenth more warms up
    compiled:bool=False,    # measure a compiled copy too? That takes some minutes
    seed:int=0,             # of weights and inputs
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "A network's call for one image, plain and traced, against its plain layers, called by hand."
    if bad := set(nets.split(',')) - {'digits', 'mnist', 'small'}: raise SystemExit(f"nets are digits, mnist and small, not {', '.join(sorted(bad))}")
    torch.set_num_threads(threads)
    if compiled:                                            # what an earlier run compiled is not taken
        from torch._inductor import config
        config.force_disable_caches = True
    print(f'{machine()}, {threads} threads, torch {torch.__version__}; median of {rounds} calls in turns')
    for name in nets.split(','):
        make, classes = known[name]
        net = stir(make(classes), seed).eval()
        for b in map(int, batches.split(',')):
            torch.manual_seed(seed)
            z, lam, y, times = torch.randn(b, *net.shape), torch.randn(b), torch.arange(b), []
            hand, n = by_hand(net, z, lam, y)
            torch._dynamo.reset()                           # it gives up on a function after some traces
            ways = {'the network': net, 'the network, traced': copied(net, 'eager')}
            if compiled: ways['the network, compiled'] = copied(net, 'inductor')
            first = {}
            with torch.inference_mode():
                for way, f in ways.items():
                    t0, tol = time.perf_counter(), 1e-4*(way == 'the network, compiled')
                    torch.testing.assert_close(f(z+1, lam, y), hand(z+1, lam, y), rtol=tol, atol=tol)
                    first[way] = time.perf_counter()-t0
                ways[by := 'plain layers by hand'] = hand
                for _ in range(rounds + rounds//10):
                    took = {}
                    for way, f in ways.items():
                        t0 = time.perf_counter()
                        f(z, lam, y)
                        took[way] = time.perf_counter()-t0
                    times.append(took)
            print(f'{name}, {b} in a call; {n} calls by hand', flush=True)
            for way in ways:
                t = [o[way] for o in times[rounds//10:]]
                values = dict(seconds_per_call=(median(t), min(t), max(t)))
                if way != by:
                    values['over_plain_layers'] = median(o[way]/o[by] for o in times[rounds//10:])
                    if way != 'the network': values['seconds_first_call'] = first[way]
                print(f"  {way:22} {median(t)*1e3:8.3f} ms, {values.get('over_plain_layers', 1):.3f} ×; first call {first.get(way, 0):.1f} s", flush=True)
                record(out, 'layers', f'net={name} batch={b}', way, values, seed)
