"""Last touches on a built site: `python .ci/trim.py DIR`; Quarto runs it after it has rendered (`post-render` in _quarto.yml). Running it twice changes nothing.

It takes out what Quarto adds to every page with an HTML output and no page here uses (require.js, jQuery, an old polyfill); gives the page's card, where Quarto took the data of a picture for an address, the page's first picture as a file; marks in the bar the chapter that the page belongs to; writes llms.txt and a copy in markdown of each page, for language models, where it finds the processed notebooks beside the site; and removes the README that nbdev_docs and nbdev_prepare have Quarto make and would put in the place of ours, which readme.py makes."""
import base64, configparser, html, json, os, posixpath, re, struct, sys
from pathlib import Path

root = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ['QUARTO_PROJECT_OUTPUT_DIR']).resolve()
cfg = configparser.ConfigParser(delimiters=['='])
cfg.read(Path(__file__).parent.parent/'settings.ini', encoding='utf-8')
own = f"{cfg['DEFAULT']['doc_host']}{cfg['DEFAULT']['doc_baseurl']}/"

unused = re.compile(r'<script src="https://(?:cdn\.jsdelivr\.net/npm/(?:jquery|requirejs|@jupyter-widgets)|cdnjs\.cloudflare\.com/polyfill)[^>]*></script>'
                    r"|<script type=\"application/javascript\">define\('jquery'.*?</script>")
def card(page, name):
    "`page` whose card is a file; and whether one had to be made"
    if not re.search(r'<meta (?:property="og:image"|name="twitter:image") content="[^"]{0,200}data:', page): return page, False
    tag = next(t for t in re.findall(r'<img\b[^>]*>', page[page.index('id="quarto-document-content"'):]) if not re.search(r'\bsrc="https?:', t))
    src, alt = re.search(r'\bsrc="([^"]*)"', tag)[1], re.search(r'\balt="([^"]*)"', tag)
    if src.startswith('data:image/png;base64,'):
        to, png = f"cards/{name.removesuffix('.html').replace('/', '-')}.png", base64.b64decode(src.partition(',')[2])
        (root/'cards').mkdir(exist_ok=True); (root/to).write_bytes(png)
    elif (root/(to := posixpath.normpath(posixpath.join(posixpath.dirname(name), src)))).exists(): png = (root/to).read_bytes()
    else: return page, False                                    # links.py says so
    width, height = struct.unpack('>II', png[16:24])
    is_now = {'image': own+to, 'image:alt': alt[1] if alt else '', 'image:height': height, 'image:width': width, 'image-height': height, 'image-width': width}
    return re.sub(r'(<meta (?:property="og|name="twitter):(image[\w:-]*)" content=")[^"]*(")', lambda m: f'{m[1]}{is_now.get(m[2], "")}{m[3]}', page), True
def mark(page, name):
    "`page` with its chapter marked in the bar"
    def chapter(m):
        if not (here := re.search(r'<a class="dropdown-item" href="([^"]*)"', ''.join(a for a in re.findall(r'<a class="dropdown-item" href="[^"]*"', m[0]) if posixpath.normpath(posixpath.join(posixpath.dirname(name), html.unescape(a[31:-1]))) == name))): return m[0]
        return m[0].replace('class="nav-link dropdown-toggle"', 'class="nav-link dropdown-toggle active" aria-current="true"').replace(here[0], here[0].replace('dropdown-item"', 'dropdown-item active" aria-current="page"'))
    return re.sub(r'<li class="nav-item dropdown ?">.*?</ul>', chapter, page, flags=re.S)

scripts = cards = 0
for f in sorted(root.rglob('*.html')):
    if 'site_libs' in f.parts: continue
    old, name = f.read_text(encoding='utf-8'), f.relative_to(root).as_posix()
    new, k = unused.subn('', old)
    new, made = card(new, name)
    new = mark(new, name)
    scripts, cards = scripts+k, cards+made
    if new != old: f.write_text(new, encoding='utf-8')

def text(o): return ''.join(o) if isinstance(o, list) else o
def plain(cells):
    "A processed notebook as markdown: its text, the code that readers see, and what that printed; of a picture what it shows"
    said = []
    for c in cells[1:]:
        src = text(c['source']).strip()
        if c['cell_type'] == 'markdown': said.append(re.sub(r'<!--.*?-->', '', src, flags=re.S)); continue
        if c['cell_type'] != 'code': continue
        flags = dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', src, re.M))
        code = '\n'.join(l for l in src.splitlines() if not l.startswith('#|')).strip()
        if code and flags.get('echo') != 'false' and flags.get('include') != 'false': said.append(f'```python\n{code}\n```')
        for o in c.get('outputs', []):
            data = o.get('data', {})
            if 'text/markdown' in data: said.append(text(data['text/markdown']))
            elif 'image/png' in data: said.append(f"*{flags.get('fig-cap', '').strip(chr(34))}* [{flags.get('fig-alt', '').strip(chr(34))}]")
            elif 'text/html' in data: said += [f'[{html.unescape(a)}]' for a in re.findall(r'<img[^>]{0,400}?\balt="([^"]+)"', text(data['text/html']))[:1]]
            elif said_here := text(o.get('text', '') or data.get('text/plain', '')).rstrip(): said.append(f'```\n{said_here}\n```')
    return re.sub(r'\]\(([\w./-]*?)(?:\d+\w?_)?([a-z]\w*)\.ipynb(#[^)\s]*)?\)', r'](\1\2.md\3)', '\n\n'.join(t for t in said if t.strip()))
def llms(proc):
    "A copy of each page for language models, as Quarto's llms-txt would make it, but with its formulas whole and under the page's own name; and llms.txt, chapter by chapter"
    told = {}
    for f in sorted(proc.rglob('*.ipynb')):
        page = f.relative_to(proc).parent/(re.sub(r'^\d+\w?_', '', f.stem)+'.html')
        if not (root/page).exists(): continue
        shown = (root/page).read_text(encoding='utf-8')
        title, about = re.search(r'<h1 class="title">(.*?)</h1>', shown, re.S), re.search(r'<meta name="description" content="([^"]*)"', shown)
        if not title or not about: continue         # a preview renders single pages
        title, about = html.unescape(re.sub('<[^>]*>', '', title[1])), html.unescape(about[1])
        told[page.as_posix()] = (title, about)
        (root/page).with_suffix('.md').write_text(f"# {title}\n\n> {about}\n\n{plain(json.loads(f.read_text(encoding='utf-8'))['cells'])}\n", encoding='utf-8')
    lines = [f"# {cfg['DEFAULT']['title']}", f"> {cfg['DEFAULT'].get('description')}."]
    if not told: return 0
    first = (root/'index.html' if (root/'index.html').exists() else root/next(iter(told))).read_text(encoding='utf-8')
    for chapter, pages in re.findall(r'<li class="nav-item dropdown ?">.*?<span class="menu-text">(.*?)</span>(.*?)</ul>', first, re.S):
        here = [posixpath.normpath(a) for a in re.findall(r'<a class="dropdown-item[^>]*? href="([^"]*)"', pages)]
        lines += [f'## {html.unescape(chapter)}', '\n'.join(f"- [{told[a][0]}]({own}{a.removesuffix('html')}md): {told[a][1]}" for a in here if a in told)]
    (root/'llms.txt').write_text('\n\n'.join(lines)+'\n', encoding='utf-8')
    return len(told)
copies = llms(root.parent) if root.parent.name == '_proc' else 0

(root/'README.md').unlink(missing_ok=True)
print(f'{scripts} scripts taken out, {cards} cards given a file, {copies} copies for language models')
