"README.md from nbs/index.ipynb: its text, its visible code and what that printed or drew; pictures go to index_files/. `--check` compares instead of writing."
import base64, html, re, sys
from pathlib import Path
import nbformat

root = Path(__file__).parent.parent
nb, parts, files = nbformat.read(root/'nbs/index.ipynb', 4), [], {}
for i, c in enumerate(nb.cells):
    if c.cell_type == 'markdown': parts.append(c.source); continue
    flags = dict(re.findall(r'^#\|[ \t]*([\w-]+):?[ \t]*(.*)$', c.source, re.M))
    if 'hide' in flags: continue
    code = '\n'.join(l for l in c.source.splitlines() if not l.startswith('#|')).strip()
    if flags.get('echo') != 'false': parts.append(f'```python\n{code}\n```')
    text = ''.join(o.text for o in c.outputs if o.output_type == 'stream' and o.name == 'stdout').rstrip()
    if text: parts.append('\n'.join('    '+l for l in text.splitlines()))
    for o in c.outputs:
        if png := o.get('data', {}).get('image/png'):
            name = f"index_files/{flags.get('label', f'cell-{i}')}.png"
            files[name] = base64.b64decode(png)
            alt, wide = flags.get('fig-alt', '').strip(chr(34)), o.get('metadata', {}).get('image/png', {}).get('width')       # twice as sharp: its width on the page is told
            parts.append((f'<img src="{name}" width="{wide}" alt="{html.escape(alt)}">' if wide else f'![{alt}]({name})') + f"\n\n*{flags.get('fig-cap', '').strip(chr(34))}*")
        if shown := re.search(r'<img alt="([^"]*)"[^>]*display:block" src="data:image/png;base64,([^"]*)"', o.get('data', {}).get('text/html', '')):
            name = f'index_files/film-{i}.png'                                       # of a film the frame that is shown first
            files[name] = base64.b64decode(shown[2])
            parts.append(f'![{shown[1]}]({name})')
files['README.md'] = ('<!-- made by .ci/readme.py from nbs/index.ipynb -->\n\n' + '\n\n'.join(parts) + '\n').encode()

if '--check' in sys.argv:
    kept = {f'index_files/{p.name}' for p in (root/'index_files').glob('*')}
    if stale := [n for n, b in files.items() if not (root/n).exists() or (root/n).read_bytes() != b] + sorted(kept - set(files)): sys.exit(f'out of date: {", ".join(stale)}; run python .ci/readme.py')
else:
    for old in (root/'index_files').glob('*'): old.unlink()
    for n, b in files.items(): (root/n).parent.mkdir(exist_ok=True); (root/n).write_bytes(b)
