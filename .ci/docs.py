"""What nbdev makes of the notebooks for the site, checked without Quarto. `python .ci/docs.py _proc`, after `nbdev_proc_nbs`.

Every page is there with title and description; no output is an error or a warning; every exported name has its documentation, and at an anchor that nothing else has; no link stands in a link or in code; boxes are closed; what a cell prints as headings is `output: asis`, or it would not be in the contents; cross-references, links between pages with their anchors, and pictures lead somewhere; every picture says what it shows."""
import json, posixpath, re, sys
from pathlib import Path
sys.dont_write_bytecode = True
import proc as mending
from proc import slug

nbs, proc, found = Path(__file__).parent.parent/'nbs', Path(sys.argv[1]), []

def text(o): return ''.join(o) if isinstance(o, list) else o
def flags(src): return dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', src, re.M))

pages = {}
for p in sorted(nbs.rglob('*.ipynb')):
    name = p.relative_to(nbs).as_posix()
    if not (proc/name).exists(): found.append(f'{name}: not processed'); continue
    pages[name] = json.loads((proc/name).read_text(encoding='utf-8'))['cells']

mending.mend(pages)                                                         # as Quarto does before it renders

anchors, prose = {}, {}
for name, cells in pages.items():
    front = text(cells[0]['source'])
    for key in ('title', 'description'):
        if cells[0]['cell_type'] != 'raw' or not re.search(rf'^{key}: *\S', front, re.M): found.append(f'{name}: no {key} in its front matter')
    parts, labels = [], []
    for i, c in enumerate(cells):
        src = text(c['source'])
        if c['cell_type'] == 'markdown': parts.append(src)
        if c['cell_type'] != 'code': continue
        f = flags(src)
        if 'label' in f: labels.append(f['label'])
        for o in c.get('outputs', []):
            if o['output_type'] == 'error': found.append(f"{name} cell {i}: {o['ename']}: {text(o['evalue'])[:100]}")
            if o.get('name') == 'stderr' or re.search(r'\b\w*(Warning|Traceback)\b', text(o.get('text', ''))): found.append(f"{name} cell {i}: a warning in its output: {text(o['text'])[:100]!r}")
            data = o.get('data', {})
            if 'text/markdown' in data:
                said = text(data['text/markdown'])
                parts.append(said)
                if re.search(r'^#+ ', re.sub(r'^(`{3,}|~{3,}).*?^\1', '', said, flags=re.M | re.S), re.M) and f.get('output') != 'asis': found.append(f'{name} cell {i}: prints headings and is not `output: asis`')
                if m := re.search(r'\[(`[^`\n]+`)\]\(https?:', ''.join(re.findall(r'^`{3,}.*?^`{3,}', said, re.M | re.S))): found.append(f'{name} cell {i}: a link in code, {m[1]}')
            if m := re.search(r'<[\w.]+ object at 0x', text(o.get('text', '')) + text(data.get('text/markdown', '')) + ('' if len(data) > 1 else text(data.get('text/plain', '')))): found.append(f'{name} cell {i}: prints {m[0]}…')
            if 'image/png' in data and not f.get('fig-alt', '').strip('"'): found.append(f'{name} cell {i}: a picture without fig-alt')
            for tag in re.findall(r'<img\b[^>]{0,400}', text(data.get('text/html', ''))):
                if not re.search(r'\balt="[^"]+"', tag): found.append(f'{name} cell {i}: an <img> without alt')
    if 'colab.research.google.com' not in ''.join(parts): found.append(f'{name}: no Colab badge')       # nbdev keeps nothing of the title's cell but title and description
    prose[name] = re.sub(r'^(`{3,}|~{3,}).*?^\1', '', '\n\n'.join(parts), flags=re.M | re.S)
    prose[name] = re.sub(r'^(:::[^\n]*callout[^\n]*\n+)#+ [^\n]*', r'\1', prose[name], flags=re.M)       # the title of a box is no anchor
    anchors[name] = {*labels, *re.findall(r'\{[^}]*#([\w:-]+)', prose[name]), *(slug(h) for h in re.findall(r'^#+ +(.*)$', prose[name], re.M))}

for name, t in prose.items():
    depth = 0
    for l in re.findall(r'^:{3,}[^\n]*', t, re.M):
        depth += -1 if re.fullmatch(r':{3,}\s*', l) else 1
        if depth < 0: break
    if depth: found.append(f'{name}: a box is {"opened and not closed" if depth > 0 else "closed and was not open"} (:::)')
    for m in re.findall(r'\[[^\]\[]*\[`[^`]+`\]\([^)]*\)[^\]\[]*\]\(', t): found.append(f'{name}: a link in a link, {m[:60]}')
    for alt, to in re.findall(r'!\[([^\]]*)\]\(([^)\s]+)', t):
        if not alt: found.append(f'{name}: the picture {to} says nothing of itself')
        if not re.match(r'https?:|data:', to) and not (proc/posixpath.normpath(posixpath.join(posixpath.dirname(name), to))).exists(): found.append(f'{name}: no picture {to}')
    for to, label in re.findall(r'(?<!!)\[[^\]]*\]\(([\w./-]*\.ipynb)?(?:#([\w-]+))?\)', t):
        page = posixpath.normpath(posixpath.join(posixpath.dirname(name), to)) if to else name
        if page not in pages: found.append(f'{name}: a link to {to}, which is no page')
        elif label and label not in anchors[page]: found.append(f'{name}: a link to {page}#{label}, which is not there')
    for ref in re.findall(r'(?<![\w`])@((?:eq|fig|wrn|sec|tbl|nte)-[\w-]+)', t):
        if ref not in anchors[name]: found.append(f'{name}: @{ref} names nothing on its page')

exported = {}
for f in (nbs.parent/'cfg_edu').glob('[!_]*.py'):
    src = f.read_text(encoding='utf-8')
    page = re.search(r'File to edit: (?:\.\./)*nbs/(\S+\.ipynb)', src)
    names = re.search(r'^__all__ = \[(.*?)\]', src, re.M | re.S)
    if not page or not names: continue
    for n in re.findall(r"'(\w+)'", names[1]):
        exported[n] = page[1]
        place = n if any(m != n and m.lower() == n.lower() for m in re.findall(r"'(\w+)'", names[1])) else n.lower()
        if re.search(rf'^(?:def|class) {n}\b', src, re.M) and place not in anchors.get(page[1], ()): found.append(f'{page[1]}: {n} is exported and not documented')
for name, cells in pages.items():
    heads = [h for d, k in mending.texts(cells) for h in re.findall(r'^#{2,4} +(.*)$', re.sub(r'^(`{3,}|~{3,}).*?^\1', '', text(d[k]), flags=re.M | re.S), re.M)]
    ids = [m[1] if (m := re.search(r'\{[^}]*#([\w.:-]+)', h)) else slug(h) for h in heads]
    for n in mending.names(cells):
        if ids.count(n if n in ids else slug(n)) != 1 or n not in ids and n != n.lower() and n.lower() in mending.names(cells): found.append(f'{name}: more than one place where {n} is linked to')
listed = json.dumps([c.get('outputs') for c in pages.get('reference.ipynb', [])], ensure_ascii=False)
found += [f'reference.ipynb: {n} is missing; run its notebook again' for n in exported if f'`{n}`' not in listed]

print('\n'.join(found) or f'{len(pages)} processed pages, {len(exported)} names: nothing found')
sys.exit(bool(found))
