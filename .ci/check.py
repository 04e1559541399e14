"What nbdev_test does not look at: stored outputs, the pointer to _quarto.yml, the sidebar, addresses, labels and links between pages, and what importing the package pulls in."
import configparser, importlib, json, pkgutil, posixpath, re, sys
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
    if (name := p.relative_to(root/'nbs').as_posix()) not in re.split(r'[\s,\[\]]+', sidebar): found.append(f'{name}: not in the sidebar of _quarto.yml')
stems = [p.parent/re.sub(r'^\d+\w?_', '', p.stem) for p in pages]
if len(set(stems)) != len(stems): found.append('two notebooks share an address')

site, repo = f"{cfg['user']}.github.io/{cfg['repo']}", f"{cfg['user']}/{cfg['repo']}"
for p in [*pages, root/'README.md', root/'CONTRIBUTING.md']:
    for a in re.findall(r'https?://[\w.-]*github[\w.-]*\.\w+/[\w./%-]*|colab\.research\.google\.com/github/[\w./%-]*', p.read_text(encoding='utf-8')):
        if 'cfg' in a and not (site in a or f'github.com/{repo}' in a or f'/github/{repo}' in a): found.append(f'{p.relative_to(root)}: {a} is not the address in settings.ini')
for p in pages:
    if p.name != 'index.ipynb' and f'/github/{repo}/blob/{cfg["branch"]}/{p.relative_to(root)}' not in p.read_text(encoding='utf-8'): found.append(f'{p.relative_to(root)}: no Colab badge of its own')

def prose(p): return '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown' or '#| label:' in ''.join(c['source']))
def slug(title): return re.sub(r'[^\w -]', '', re.sub(r'\{#.*\}', '', title).strip().lower()).replace(' ', '-')
text = {p.relative_to(root/'nbs').as_posix(): prose(p) for p in pages}
labels = {n: set(re.findall(r'\{#([\w-]+)', t) + re.findall(r'#\|\s*label:\s*([\w-]+)', t) + [slug(h) for h in re.findall(r'^#+ (.*)', t, re.M)]) for n, t in text.items()}
bib = set(re.findall(r'^@\w+\{([\w-]+)', (root/'nbs/references.bib').read_text(encoding='utf-8'), re.M))
for n, t in text.items():
    for to, label in re.findall(r'\]\(([\w./]*\.ipynb)?(?:#([\w-]+))?\)', t):
        to = to and posixpath.normpath(posixpath.join(posixpath.dirname(n), to))
        if (to or n) not in text: found.append(f'{n}: a link to {to}, which is no page')
        elif label and label not in labels[to or n]: found.append(f'{n}: a link to {to}#{label}, which is not there')
    for ref in re.findall(r'@((?:eq|fig|wrn|sec|tbl)-[\w-]+)', t):
        if ref not in labels[n]: found.append(f'{n}: @{ref} names nothing on this page')
    for key in re.findall(r'(?<=[\[;\s(-])@([a-z]+\d{4}\w*)', t):
        if key not in bib: found.append(f'{n}: @{key} is not in references.bib')
    for label in re.findall(r'\{#((?:eq|wrn|sec)-[\w-]+)', t) + re.findall(r'#\|\s*label:\s*([\w-]+)', t):
        if len(re.findall(r'(?:\{#|label:\s*)' + label + r'(?![\w-])', t)) > 1: found.append(f'{n}: two things are labelled {label}')

package = importlib.import_module(cfg['lib_path'])
modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith('_')]
for m in modules: importlib.import_module(f"{cfg['lib_path']}.{m}")
if bad := sorted(m for m in sys.modules if m.split('.')[0] == 'nbdev'): found.append(f'importing the package imports {bad[0]}')

print('\n'.join(found) or f'{len(pages)} notebooks and {len(modules)} modules: nothing found')
sys.exit(bool(found))
