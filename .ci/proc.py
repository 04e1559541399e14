"""Mends in nbdev's `_proc` what readers would see as raw markdown or be led astray by. Quarto runs it before it renders (`pre-render` in _quarto.yml); docs.py uses it too.

nbdev links names in backticks wherever they stand: inside a signature that shows as `[…](…)`, inside a link as a link in a link. And pandoc gives a class and a function whose names differ in case alone the anchors `cfg` and `cfg-1`, while both are linked as `cfg`; as it does where a section is called as a function (`Evaluate`).

And where the source of a function stands open on the page, nbdev's signature and docstring right above it say the same words twice: there only the heading stays, with its link."""
import json, os, re, sys
from pathlib import Path

def fences(f, t):
    "`t` with `f` applied to its code blocks"
    return re.sub(r'^(`{3,}|~{3,})[^\n]*\n.*?^\1', lambda m: f(m[0]), t, flags=re.M | re.S)
def signature(t):
    t = re.sub(r'\[(`[^`\n]+`)\]\(https?://[^)\s]*\)', r'\1', t)
    return re.sub(r'<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>', r'\1(…)', t.replace(':NoneType=None', '=None'))
def unnest(t): return re.sub(r'\[\[(`[^`\n]+`)\]\([^)\s]*\)\](\([^)\s]+\))', r'[\1]\2', t)

def texts(cells):
    "Every piece of markdown: what holds it, and its key"
    for c in cells:
        if c['cell_type'] == 'markdown': yield c, 'source'
        for o in c.get('outputs', []):
            if 'text/markdown' in o.get('data', {}): yield o['data'], 'text/markdown'
def names(cells):
    "What is documented here: its name as it is written"
    return [n for d, k in texts(cells) if k != 'source' for n in re.findall(r'^### ([\w.]+)(?: \{#[\w.]+\})?$', ''.join(d[k]), re.M)]

def slug(title):
    "The anchor that pandoc gives a heading"
    title = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', re.sub(r'\{#?.*\}|`|\*|\$', '', title)).strip().lower()
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', title)))
def once(doc, cell):
    "Takes the signature and the docstring out of `doc`, what `show_doc` says of one name, if `cell` shows the source of that name and of no other"
    source = ''.join(cell['source'])
    name = re.search(r'^show_doc\((\w+)\)', ''.join(doc['source']), re.M)
    here = re.findall(r'^(?:async )?(?:def|class) ([A-Za-z]\w*)', source, re.M)
    if not name or here != [name[1]] or 'code-summary: "Exported source"' not in source: return False
    if not re.search(rf'^(async )?def {name[1]}\(|^    def __init__\(', source, re.M): return False      # a class that inherits its arguments: nowhere else do they stand
    for o in doc['outputs']:
        if 'text/markdown' in o.get('data', {}): o['data']['text/markdown'] = re.sub(r'^```.*', '', ''.join(o['data']['text/markdown']), flags=re.M | re.S).splitlines(True)
    cell['source'] = re.sub(r'^#\| code-(fold|summary):.*\n', '', source, flags=re.M).splitlines(True)
    return True

def stem(page): return re.sub(r'^\d+\w?_', '', Path(page).stem)

def mend(pages):
    "Mends `pages`, {name: cells}; names those that changed"
    changed, apart = set(), []
    for page, cells in pages.items():
        here = names(cells)
        heads = [h for c in cells if c['cell_type'] == 'markdown' for h in re.findall(r'^#{2,4} +(.*)$', ''.join(c['source']), re.M)]
        taken = [slug(h) for h in heads] + [n.lower() for n in here]
        apart += [(stem(page), n) for n in here if taken.count(n.lower()) > 1]
    for page, cells in pages.items():
        changed |= {page for a, b in zip(cells, cells[1:]) if a['cell_type'] == b['cell_type'] == 'code' and once(a, b)}
        for d, k in texts(cells):
            old = ''.join(d[k])
            new = unnest(fences(signature, old) if k != 'source' else old)
            for where, n in apart:                              # a name with capitals gets an anchor with capitals; from one without, the section steps aside
                new = re.sub(rf'(\[`{n}(?:\(\))?`\]\((?:[\w/.:-]*?\b(?:\d+\w?_)?{where}\.(?:html|ipynb))?)#{n.lower()}\)', rf'\1#{n})', new)
                if where != stem(page): continue
                if k != 'source': new = re.sub(rf'^### {n}$', f'### {n} {{#{n}}}' if n != n.lower() else r'\g<0>', new, flags=re.M)
                elif n == n.lower(): new = re.sub(r'^(#{2,4} +)([^{\n]*)$', lambda m: f'{m[0].rstrip()} {{#{n}-section}}' if slug(m[2]) == n else m[0], new, flags=re.M)
            if new != old: d[k] = new.splitlines(True); changed.add(page)
    return changed

if __name__ == '__main__':
    proc = Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    if proc.name != '_proc': sys.exit(0)                        # Quarto was started among the notebooks themselves: those stay as they are
    nbs = {p.relative_to(proc).as_posix(): json.loads(p.read_text(encoding='utf-8')) for p in sorted(proc.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts}
    for name in mend({n: nb['cells'] for n, nb in nbs.items()}):
        times = (proc/name).stat()
        (proc/name).write_text(json.dumps(nbs[name], ensure_ascii=False, indent=1)+'\n', encoding='utf-8')
        os.utime(proc/name, ns=(times.st_atime_ns, times.st_mtime_ns))    # nbdev processes what is newer than this
