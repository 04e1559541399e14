import sys
from .glyphs import glyphs
from .gpu import gpu
from .growth import growth
from .late import late
from .layers import layers
from .loop import loop
from .onepass import onepass
from .quality import quality
from .sampling import sampling
from .step import step
from .train import train

benchmarks = dict(gpu=gpu, step=step, loop=loop, sampling=sampling, quality=quality, train=train, late=late, layers=layers, onepass=onepass, growth=growth, glyphs=glyphs)
name = sys.argv[1] if len(sys.argv) > 1 else ''
if name in benchmarks:
    sys.argv[:2] = [f'{sys.argv[0]} {name}']                # what follows are the benchmark's own arguments
    benchmarks[name]()
else:
    for k, f in benchmarks.items(): print(f"python -m benchmarks {k:8} {f.__doc__}")
    if name not in ('', '-h', '--help'): sys.exit(f"no benchmark is called {name!r}")
