"Every slider of the pages redraws at its start and at both ends; the times are printed (`pytest -m slow -s tests/test_explore.py`)."
import json, re
from pathlib import Path
import nbformat, pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow
root = Path(__file__).parent.parent/'nbs'
flagged = re.compile(r'^#\|\s*(slow|cuda|data)\s*$', re.M)
pages = [p for p in sorted(root.rglob('*.ipynb')) if re.search(r'"explore\(', p.read_text(encoding='utf-8'))]

before = '''
import cfg_edu.plots as _plots
_explore, _seen = _plots.explore, []
def _watched(draw, **sliders):
    _seen.append((draw, sliders))
    return _explore(draw, **sliders)
_plots.explore = _watched
'''
after = '''
import io as _io, json as _json, time as _time, matplotlib.pyplot as _plt
def _first(o): return o if isinstance(o, bool) else o[0] if isinstance(o, list) or len(o) == 3 else o[3]
def _ends(o): return [True, False] if isinstance(o, bool) else [o[0], o[-1]] if isinstance(o, list) else [o[0], o[1]]
def _ms(draw, values):
    _plt.close('all')
    t = _time.perf_counter()
    draw(**values)
    _plt.gcf().savefig(_io.BytesIO())
    _plt.close('all')
    return 1000*(_time.perf_counter()-t)
for _draw, _sliders in _seen:
    _start = {k: _first(o) for k, o in _sliders.items()}
    _ms(_draw, _start)
    _worst = max((_ms(_draw, {**_start, k: v}), f'{k} = {v}') for k, o in _sliders.items() for v in _ends(o))
    print('REDRAW', _json.dumps([_ms(_draw, _start), *_worst]))
'''


@pytest.mark.parametrize('page', pages, ids=[p.stem for p in pages])
def test_redraw(page):
    nb = nbformat.read(page, 4)
    cells = [c for c in nb.cells if c.cell_type == 'code' and not flagged.search(c.source)]
    if not any(re.search(r'^explore\(', c.source, re.M) for c in cells): pytest.skip('its sliders need cells that are left out')
    nb.cells = [nbformat.v4.new_code_cell(before), *cells, nbformat.v4.new_code_cell(after)]
    NotebookClient(nb, timeout=3000, kernel_name='python3', resources={'metadata': {'path': str(page.parent)}}).execute()
    said = ''.join(o.text for o in nb.cells[-1].outputs if o.output_type == 'stream' and o.name == 'stdout')
    rows = [json.loads(l[7:]) for l in said.splitlines() if l.startswith('REDRAW')]
    assert rows
    for start, worst, at in rows: print(f'{page.stem:26} {start:6.0f} ms at the start, {worst:6.0f} ms at {at}')
