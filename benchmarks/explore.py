"What a redraw of the pages' sliders costs."
import json, re
from pathlib import Path
import nbformat
from fastcore.script import call_parse
from nbclient import NotebookClient

before = '''
import cfg_edu.plots as _plots
_explore, _seen = _plots.explore, []
def _watched(draw, **sliders): _seen.append((draw, sliders)); return _explore(draw, **sliders)
_plots.explore = _watched
'''
after = '''
import io as _io, json as _json, time as _time, matplotlib.pyplot as _plt
def _first(o): return o if isinstance(o, bool) else o[0] if isinstance(o, list) or len(o) == 3 else o[3]
def _ends(o): return [True, False] if isinstance(o, bool) else [o[0], o[-1]] if isinstance(o, list) else [o[0], o[1]]
def _ms(draw, n, values):
    best = 1e9
    for _ in range(n):
        _plt.close('all'); t = _time.perf_counter(); draw(**values); _plt.gcf().savefig(_io.BytesIO()); best = min(best, _time.perf_counter()-t)
    _plt.close('all'); return 1000*best
for _draw, _sliders in _seen:
    _start = {k: _first(o) for k, o in _sliders.items()}
    _ms(_draw, 1, _start)
    _worst = max((_ms(_draw, 2, {**_start, k: v}), f'{k} = {v}') for k, o in _sliders.items() for v in _ends(o))
    print('REDRAW', _json.dumps([_ms(_draw, 5, _start), *_worst]))
'''

@call_parse
def explore(
    pages:str='',        # notebooks, separated by commas; default: all that call `explore` in a cell that tests run
    flags:str='',        # also run cells flagged so: slow, cuda, data, separated by commas
):
    "What a redraw of each page's sliders costs: at the start, and with one slider at its dearest end."
    left_out = {'slow', 'cuda', 'data'} - set(flags.split(','))
    for f in [Path(p) for p in pages.split(',') if p] or sorted(Path('nbs').rglob('*.ipynb')):
        nb = nbformat.read(f, 4)
        nb.cells = [c for c in nb.cells if c.cell_type == 'code' and not re.search(rf'^#\|\s*({"|".join(left_out)})\s*$', c.source, re.M)] if left_out else [c for c in nb.cells if c.cell_type == 'code']
        if not any(re.search(r'^explore\(', c.source, re.M) for c in nb.cells): continue
        nb.cells = [nbformat.v4.new_code_cell(before), *nb.cells, nbformat.v4.new_code_cell(after)]
        NotebookClient(nb, timeout=3000, kernel_name='python3', resources={'metadata': {'path': str(f.parent)}}).execute()
        for line in ''.join(o.text for o in nb.cells[-1].outputs if o.output_type == 'stream' and o.name == 'stdout').splitlines():
            if line.startswith('REDRAW'): start, worst, at = json.loads(line[7:]); print(f'{f.name:26} {start:6.0f} ms at the start, {worst:6.0f} ms at {at}', flush=True)
