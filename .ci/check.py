"What nbdev_test does not look at: stored outputs, first pictures, the pointer to _quarto.yml, the sidebar, addresses, citations, and what importing the package pulls in. (Links and labels: `docs.py`.)"
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
        if re.search(r'^#\|\s*exports', src, re.M) and re.search(r'^#\|\s*code-fold', src, re.M): found.append(f'{name} cell {i}: exports has a fold of its own, and two are an error in Quarto: use export')
        if re.search(r'^#\|\s*label:\s*fig-', src, re.M) and not any('image/png' in o.get('data', {}) for o in outs): found.append(f'{name} cell {i}: a figure without its picture')
        for o in outs:
            if o['output_type'] == 'error': found.append(f'{name} cell {i}: a stored error, {o["ename"]}')
            if o.get('name') == 'stderr': found.append(f'{name} cell {i}: stored stderr, {"".join(o["text"])[:80]!r}')
            if re.search(r'(?<![\w.])/(root|home|tmp|work)/', json.dumps(o.get('text', '')) + json.dumps(o.get('data', {}).get('text/plain', ''))): found.append(f'{name} cell {i}: a path of a machine in its output')
            if 'image/png' in o.get('data', {}) and 'fig-alt' not in src: found.append(f'{name} cell {i}: a figure without fig-alt')
    top = nb['cells'][:next((i for i, c in enumerate(nb['cells']) if c['cell_type'] == 'markdown' and re.search(r'^## ', ''.join(c['source']), re.M)), None)]
    if not any('image/png' in o.get('data', {}) for c in top for o in c.get('outputs', [])): found.append(f'{name}: no picture before its first section')
    if '! [ -e /content ] && pip install -qq git+' not in ''.join(next(c for c in nb['cells'] if c['cell_type'] == 'code')['source']): found.append(f'{name}: its first code cell is not the installation on Colab')

if (root/'nbs/_quarto.yml').read_text(encoding='utf-8').strip() != 'metadata-files: [../_quarto.yml, nbdev.yml]': found.append('nbs/_quarto.yml: no longer the pointer to the top-level _quarto.yml')
sidebar = (root/'_quarto.yml').read_text(encoding='utf-8')
found += [f'_quarto.yml names {n}, which is not there' for n in set(re.findall(r'[\w/]+\.(?:ipynb|scss|css|bib|svg|png)', sidebar)) if not (root/'nbs'/n).exists()]
for p in pages:
    if (name := p.relative_to(root/'nbs').as_posix()) not in re.split(r'[\s,\[\]]+', sidebar): found.append(f'{name}: not in the sidebar of _quarto.yml')
found += [f'_quarto.yml: without {l!r}' for l in ('pre-render: ../.ci/proc.py', 'post-render: ../.ci/trim.py', 'src="/site.js"', 'image: images/card.png') if l not in sidebar]
stems = [p.parent/re.sub(r'^\d+\w?_', '', p.stem) for p in pages]
if len(set(stems)) != len(stems): found.append('two notebooks share an address')

site, repo = f"{cfg['user']}.github.io/{cfg['repo']}", f"{cfg['user']}/{cfg['repo']}"
for p in [*pages, root/'README.md', root/'CONTRIBUTING.md']:
    for a in re.findall(r'https?://[\w.-]*github[\w.-]*\.\w+/[\w./%-]*|colab\.research\.google\.com/github/[\w./%-]*', p.read_text(encoding='utf-8')):
        if 'cfg' in a and not (site in a or f'github.com/{repo}' in a or f'/github/{repo}' in a): found.append(f'{p.relative_to(root)}: {a} is not the address in settings.ini')
for p in pages:
    if f'/github/{repo}/blob/{cfg["branch"]}/{p.relative_to(root)}' not in p.read_text(encoding='utf-8'): found.append(f'{p.relative_to(root)}: no Colab badge of its own')

def prose(p): return '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown' or '#| label:' in ''.join(c['source']))
text = {p.relative_to(root/'nbs').as_posix(): prose(p) for p in pages}
bib = set(re.findall(r'^@\w+\{([\w-]+)', (root/'nbs/references.bib').read_text(encoding='utf-8'), re.M))
for n, t in text.items():
    for key in re.findall(r'(?<=[\[;\s(-])@([a-z]+\d{4}\w*)', t):
        if key not in bib: found.append(f'{n}: @{key} is not in references.bib')
    for label in re.findall(r'\{#((?:eq|wrn|sec)-[\w-]+)', t) + re.findall(r'#\|\s*label:\s*([\w-]+)', t):
        if len(re.findall(r'(?:\{#|label:\s*)' + label + r'(?![\w-])', t)) > 1: found.append(f'{n}: two things are labelled {label}')

for to in re.findall(r'\]\(([^)\s]+)\)', (root/'README.md').read_text(encoding='utf-8')):
    if not to.startswith('https://') and not to.startswith('index_files/') or to.startswith('index_files/') and not (root/to).exists(): found.append(f'README.md: {to} is not absolute')

package = importlib.import_module(cfg['lib_path'])
modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith('_')]
for m in modules: importlib.import_module(f"{cfg['lib_path']}.{m}")
if bad := sorted(m for m in sys.modules if m.split('.')[0] == 'nbdev'): found.append(f'importing the package imports {bad[0]}')

links = importlib.import_module(f"{cfg['lib_path']}._modidx").d['syms'].values()      # nbdev links these names by itself
links = {name.split('.', 2)[2] for module in links for name in module}
for n, t in text.items():
    found += [f'{n}: `{name}` links by itself, a link around it is linked twice' for name in re.findall(r'\[[^\[\]]*`([^`]+)`[^\[\]]*\]\(', t) if name in links]

print('\n'.join(found) or f'{len(pages)} notebooks and {len(modules)} modules: nothing found')
sys.exit(bool(found))
