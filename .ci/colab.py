"""Runs notebooks from top to bottom as a user does, in the environment at hand, without nbdev: `python .ci/colab.py [NOTEBOOK …]`.

Cells flagged slow, cuda or data are left out, nothing is stored. Prints the versions, a line for each notebook, and ends with an error if one failed."""
import importlib.metadata, importlib.util, re, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

root = Path(__file__).parent.parent
if importlib.util.find_spec('nbdev'): sys.exit('nbdev is installed here: that is not how users have it')
print(sys.version.split()[0], *(f'{p} {importlib.metadata.version(p)}' for p in ('torch', 'fastai', 'fastcore', 'ipywidgets', 'matplotlib')), flush=True)
failed = 0
for f in map(Path, sys.argv[1:] or sorted((root/'nbs').rglob('*.ipynb'))):
    nb, start, said = nbformat.read(f, 4), time.time(), 'passed'
    nb.cells = [c for c in nb.cells if c.cell_type == 'code' and not re.search(r'^#\|\s*((slow|cuda|data)\s*$|eval:\s*false)', c.source, re.M)]
    try: NotebookClient(nb, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(f.parent)}}).execute()
    except CellExecutionError as e: said, failed = f'FAILED\n{str(e)[-1500:]}', failed+1
    print(f'{f.resolve().relative_to(root.resolve())}: {said}, {time.time()-start:.0f} s', flush=True)
sys.exit(failed and f'{failed} failed')
