"What nbdev_test does not look at: stored outputs, the pointer to _quarto.yml, the sidebar, addresses, and what importing the package pulls in."
import configparser, importlib, json, pkgutil, re, sys
from pathlib import Path

root, found = Path(__file__).parent.parent, []
cfg = configparser.ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

pages = sorted((root/'nbs').rglob('*.ipynb'))
for p in pages:
    nb, name = json.loads(p.read_text(encoding='utf-8')), p.relative_to(root)
    if nb['nbformat'] != 4 or nb['nbformat_minor'] < 5: found.append(f'{name}: not nbformat 4.5')
    if p.stat().st_size > 1_000_000: found.append(f'{name}: {p.stat().st_size//1000} kB, over 1 MB')
    for i, c in enumerate(nb['cells']):
        src, outs = ''.join(c['source']), c.get('outputs', [])
        if c['cell_type'] == 'code' and re.search(r'^\s*(import|from)\s+nbdev', src, re.M): found.append(f'{name} cell {i}: imports nbdev')
        if re.search(r'^#\|\s*label:\s*fig-', src, re.M) and not any('image/png' in o.get('data', {}) for o in outs): found.append(f'{name} cell {i}: a figure without its picture')
        for o in outs:
            if o['output_type'] == 'error': found.append(f'{name} cell {i}: a stored error, {o["ename"]}')
            if o.get('name') == 'stderr': found.append(f'{name} cell {i}: stored stderr, {"".join(o["text"])[:80]!r}')
            if re.search(r'(?<![\w.])/(root|home|tmp|work)/', json.dumps(o.get('text', '')) + json.dumps(o.get('data', {}).get('text/plain', ''))): found.append(f'{name} cell {i}: a path of a machine in its output')
            if 'image/png' in o.get('data', {}) and 'fig-alt' not in src: found.append(f'{name} cell {i}: a figure without fig-alt')

if (root/'nbs/_quarto.yml').read_text(encoding='utf-8').strip() != 'metadata-files: [../_quarto.yml, nbdev.yml]': found.append('nbs/_quarto.yml: no longer the pointer to the top-level _quarto.yml')
sidebar = (root/'_quarto.yml').read_text(encoding='utf-8')
for p in pages:
    if p.parent.name == 'nbs' and p.name not in sidebar: found.append(f'{p.name}: not in the sidebar of _quarto.yml')
stems = [re.sub(r'^\d+\w?_', '', p.stem) for p in pages]
if len(set(stems)) != len(stems): found.append('two notebooks share an address')

site, repo = f"{cfg['user']}.github.io/{cfg['repo']}", f"{cfg['user']}/{cfg['repo']}"
for p in [*pages, root/'README.md', root/'CONTRIBUTING.md']:
    for a in re.findall(r'https?://[\w.-]*github[\w.-]*\.\w+/[\w./%-]*|colab\.research\.google\.com/github/[\w./%-]*', p.read_text(encoding='utf-8')):
        if 'cfg' in a and not (site in a or f'github.com/{repo}' in a or f'/github/{repo}' in a): found.append(f'{p.relative_to(root)}: {a} is not the address in settings.ini')
for p in pages:
    if p.name != 'index.ipynb' and f'/github/{repo}/blob/{cfg["branch"]}/{p.relative_to(root)}' not in p.read_text(encoding='utf-8'): found.append(f'{p.relative_to(root)}: no Colab badge of its own')

package = importlib.import_module(cfg['lib_path'])
modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith('_')]
for m in modules: importlib.import_module(f"{cfg['lib_path']}.{m}")
if bad := sorted(m for m in sys.modules if m.split('.')[0] == 'nbdev'): found.append(f'importing the package imports {bad[0]}')

print('\n'.join(found) or f'{len(pages)} notebooks and {len(modules)} modules: nothing found')
sys.exit(bool(found))
