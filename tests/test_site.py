"What is done to the pages before and after Quarto (.ci/proc.py, .ci/trim.py), the check of the built site (.ci/links.py), and the search's second try (nbs/site.js)."
import base64, json, re, shutil, struct, subprocess, sys
from pathlib import Path
import pytest

top = Path(__file__).parent.parent
if not (top/'.ci').exists(): pytest.skip('not a clone of the repository', allow_module_level=True)
own = 'https://cfg-edu.github.io/cfg_edu/'
png = base64.b64encode(b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' + struct.pack('>II', 30, 20)).decode()

def run(*args): return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, timeout=60)
def shown(text): return {'cell_type': 'code', 'source': ['show_doc(x)'], 'outputs': [{'output_type': 'display_data', 'data': {'text/markdown': text}}]}

def test_before(tmp_path):
    "Links out of signatures and out of links; a class and a function of one name apart; nothing else, and nothing twice"
    proc = tmp_path/'_proc'
    proc.mkdir()
    cells = [shown('### cfg\n\n```python\ndef cfg(\n    w:NoneType=None, # as [`CFG`](https://a.b/guidance.html#cfg)\n    s=<__main__.Old object at 0x7f00>,\n)\n```\n'), shown('### CFG\n\n'),
             {'cell_type': 'markdown', 'source': ['[`CFG`](https://a.b/guidance.html#cfg), [[`cfg()`](https://a.b/guidance.html#cfg)](05_guidance.ipynb#cfg), [`CFG`](https://a.b/other.html#cfg)']}]
    (proc/'05_guidance.ipynb').write_text(json.dumps({'cells': cells}), encoding='utf-8')
    (proc/'paper.ipynb').write_text(json.dumps({'cells': [{'cell_type': 'markdown', 'source': 'see [`CFG`](05_guidance.ipynb#cfg)'}]}), encoding='utf-8')
    for _ in range(2):
        assert run(top/'.ci/proc.py', proc).returncode == 0
        new = json.loads((proc/'05_guidance.ipynb').read_text(encoding='utf-8'))['cells']
        said = [''.join(c['outputs'][0]['data']['text/markdown']) for c in new[:2]]
        assert said[0] == '### cfg\n\n```python\ndef cfg(\n    w=None, # as `CFG`\n    s=Old(…),\n)\n```\n' and said[1] == '### CFG {#CFG}\n\n'
        assert ''.join(new[2]['source']) == '[`CFG`](https://a.b/guidance.html#CFG), [`cfg()`](05_guidance.ipynb#cfg), [`CFG`](https://a.b/other.html#cfg)'
        assert ''.join(json.loads((proc/'paper.ipynb').read_text(encoding='utf-8'))['cells'][0]['source']) == 'see [`CFG`](05_guidance.ipynb#CFG)'
    elsewhere = tmp_path/'nbs'
    elsewhere.mkdir()
    (elsewhere/'05_guidance.ipynb').write_text(json.dumps({'cells': cells}), encoding='utf-8')
    run(top/'.ci/proc.py', elsewhere)
    assert json.loads((elsewhere/'05_guidance.ipynb').read_text(encoding='utf-8'))['cells'] == cells      # the notebooks themselves are nobody's to mend

def test_said_once(tmp_path):
    "Above the open source of a function only its heading stays; a signature that stands nowhere else stays whole"
    proc = tmp_path/'_proc'
    proc.mkdir()
    def doc(name): return {**shown(f'---\n\n[source](https://a.b/x.py#L1)\n\n### {name}\n\n```python\ndef {name}(\n    w, # weight\n)\n```\n\n*What it does.*'), 'source': ['#| echo: false\n', f'show_doc({name})']}
    def code(text, open='#| code-fold: show\n#| code-summary: "Exported source"\n'): return {'cell_type': 'code', 'source': (open+text).splitlines(True), 'outputs': []}
    f, init, inherits = 'def f(\n    w,  # weight\n):\n    "What it does."\n', 'class C:\n    def __init__(self, w): self.w = w\n', 'class D(C):\n    def forward(self): pass\n'
    cells = [doc('f'), code(f), doc('C'), code(init), doc('D'), code(inherits), doc('f'), doc('C'), code(f+init), doc('f'), code(f, '#| code-fold: true\n#| code-summary: "`f`"\n'), doc('f'), {'cell_type': 'markdown', 'source': ['Then']}, code(f)]
    (proc/'05_guidance.ipynb').write_text(json.dumps({'cells': cells}), encoding='utf-8')
    for _ in range(2):
        assert run(top/'.ci/proc.py', proc).returncode == 0
        new = json.loads((proc/'05_guidance.ipynb').read_text(encoding='utf-8'))['cells']
        said = [''.join(c['outputs'][0]['data']['text/markdown']) if c.get('outputs') else None for c in new]
        assert said[0] == '---\n\n[source](https://a.b/x.py#L1)\n\n### f\n\n' and ''.join(new[1]['source']) == f
        assert '### C' in said[2] and ''.join(new[3]['source']) == init
        assert [i for i, t in enumerate(said) if t and 'def ' in t] == [4, 6, 7, 9, 11] and new[5:6] + new[8:9] + new[10:11] == cells[5:6] + cells[8:9] + cells[10:11]

def site(folder):
    "A site of two pages as Quarto writes it"
    folder.mkdir(parents=True)
    bar = '<li class="nav-item dropdown ">\n <a class="nav-link dropdown-toggle" href="#"><span class="menu-text">Start</span></a><ul class="dropdown-menu"><li><a class="dropdown-item" href="./index.html">I</a></li></ul></li>' \
          '<li class="nav-item dropdown ">\n <a class="nav-link dropdown-toggle" href="#"><span class="menu-text">Theory</span></a><ul class="dropdown-menu"><li><a class="dropdown-item" href="./guidance.html">G</a></li></ul></li>'
    def page(text, image): return f'<html><head><meta name="description" content="About &amp; so"><meta property="og:image" content="{own}{image}"><meta name="twitter:image" content="{own}{image}"><script src="./site.js"></script></head><body>{bar}' \
        f'<nav id="TOC"><a href="#one">One</a></nav><main id="quarto-document-content"><h1 class="title">A page</h1><h2 class="anchored" data-anchor-id="one" id="one">One</h2>{text}</main></body></html>'
    heads = '<h3 class="anchored" data-anchor-id="cfg" id="cfg">cfg</h3><h3 class="anchored" data-anchor-id="CFG" id="CFG">CFG</h3>'
    files = {'index.html': page('<a href="guidance.html#CFG"><code>CFG</code></a>', 'a.png'), 'guidance.html': page(f'<img alt="Dots" src="data:image/png;base64,{png}">'+heads, f'data:image/png;base64,{png}'), 'a.png': 'p', 'site.js': '',
             'README.md': 'by nbdev'}
    for n, t in files.items(): (folder/n).write_text(t, encoding='utf-8')
    cells = [{'cell_type': 'raw', 'source': ''}, {'cell_type': 'markdown', 'source': 'To $w\\,x$, see [it](05_guidance.ipynb#CFG).'}, {'cell_type': 'code', 'source': '#| fig-alt: "Dots"\n#| fig-cap: "Some"\nx', 'outputs': [{'data': {'image/png': png, 'text/plain': 'no'}}, {'text': 'printed\n'}]}]
    for n in ('index.ipynb', '05_guidance.ipynb'): (folder.parent/n).write_text(json.dumps({'cells': cells}), encoding='utf-8')

def test_after(tmp_path):
    "The card is a file, the chapter is marked, no README of nbdev's is left, there is a copy for language models, and the check has nothing more to say"
    site(tmp_path/'_proc/_docs')
    assert 'its card is no address' in run(top/'.ci/links.py', tmp_path/'_proc/_docs', own).stdout
    for made in (1, 0):
        assert f'{made} cards' in run(top/'.ci/trim.py', tmp_path/'_proc/_docs').stdout
        assert (checked := run(top/'.ci/links.py', tmp_path/'_proc/_docs', own)).returncode == 0, checked.stdout
    page = (tmp_path/'_proc/_docs/guidance.html').read_text(encoding='utf-8')
    assert f'content="{own}cards/guidance.png"' in page and (tmp_path/'_proc/_docs/cards/guidance.png').read_bytes() == base64.b64decode(png)
    assert page.count('dropdown-toggle active') == 1 and 'dropdown-item active" aria-current="page" href="./guidance.html"' in page
    assert not (tmp_path/'_proc/_docs/README.md').exists()
    assert (tmp_path/'_proc/_docs/guidance.md').read_text(encoding='utf-8') == '# A page\n\n> About & so\n\nTo $w\\,x$, see [it](guidance.md#CFG).\n\n```python\nx\n```\n\n*Some* [Dots]\n\n```\nprinted\n```\n'
    assert f'## Theory\n\n- [A page]({own}guidance.md): About & so' in (tmp_path/'_proc/_docs/llms.txt').read_text(encoding='utf-8')
    for text, code in (('![](data:image/png;base64,{png})', 0), (f'![](data:image/png;base64,{png})', 1)):     # code that makes a picture is none
        (tmp_path/'_proc/_docs/guidance.md').write_text(text, encoding='utf-8')
        assert run(top/'.ci/links.py', tmp_path/'_proc/_docs', own).returncode == code

@pytest.mark.parametrize('old, new, said', [
    ('guidance.html#CFG"', 'guidance.html#cfg"', 'the link called CFG leads to cfg'), ('guidance.html#CFG"', 'guidance.html#Cfg"', 'there is no such place'), ('guidance.html#CFG"', 'guidanc.html"', 'leads nowhere'),
    ('<code>CFG', 'see [`CFG`](https://a.b)<code>CFG', 'markdown that was not understood'), ('id="one">One', 'id="one">One</h2><h2 class="anchored" data-anchor-id="two" id="two">Two', 'not in its list of contents: two'),
    ('./site.js', './other.js', 'does not load site.js'), ('a.png', 'b.png', 'no file for its card'), ('dropdown-toggle active', 'dropdown-toggle', '0 chapters are marked'), ('<main', '<img src="a.png"><main', 'pictures without alt')])
def test_faults(tmp_path, old, new, said):
    "Each fault is found"
    site(tmp_path/'_proc/_docs')
    run(top/'.ci/trim.py', tmp_path/'_proc/_docs')
    page = (tmp_path/'_proc/_docs/index.html').read_text(encoding='utf-8')
    assert old in page
    (tmp_path/'_proc/_docs/index.html').write_text(page.replace(old, new), encoding='utf-8')
    checked = run(top/'.ci/links.py', tmp_path/'_proc/_docs', own)
    assert checked.returncode == 1 and said in checked.stdout, checked.stdout

@pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')
def test_search():
    "A question finds the section that has its words, in the heading before the text"
    docs = [dict(title='Digits', section='', text='the images of the digits, and how to use them'), dict(title='Your own images', section='A folder', text='…'), dict(title='Files', section='', text='own')]
    code = f"const s = require({json.dumps((top/'nbs/site.js').as_posix())}); console.log(JSON.stringify([s.wordsOf('How do I use my own images?'), s.byWords({json.dumps(docs)}, 'how do I use my own images').map(r => r.item.title), s.byWords({json.dumps(docs)}, 'of the')]))"
    words, titles, none = json.loads(subprocess.run(['node', '-e', code], capture_output=True, text=True, check=True, timeout=60).stdout)
    assert words == ['own', 'image'] and titles[0] == 'Your own images' and none == []

def test_contrast():
    "Text, links and asides stand out from what they are written on, at least 4.5:1, by day and by night"
    def luminance(colour):
        colour = colour.lstrip('#')
        r, g, b = (int(c, 16)/255 for c in (re.findall('..', colour) if len(colour) == 6 else [2*c for c in colour]))
        return sum(k*(c/12.92 if c <= .04045 else ((c+.055)/1.055)**2.4) for k, c in zip((.2126, .7152, .0722), (r, g, b)))
    def contrast(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high+.05)/(low+.05)
    css = (top/'nbs/styles.css').read_text(encoding='utf-8')
    gray = {'light': re.search(r'^\.gray \{ color: (#\w+)', css, re.M)[1], 'dark': re.search(r'^body\.quarto-dark \.gray \{ color: (#\w+)', css, re.M)[1]}
    for theme, bg in (('light', '#ffffff'), ('dark', None)):
        told = dict(re.findall(r'^\$([\w-]+): (#\w+);', (top/f'nbs/{theme}.scss').read_text(encoding='utf-8'), re.M))
        bg = told.get('body-bg', bg)
        pairs = [(told['body-color'], bg), (told['link-color'], bg), (gray[theme], bg), (told['navbar-fg'], told['navbar-bg'])] + ([(told['code-color'], told['code-bg'])] if 'code-bg' in told else [])
        assert all(contrast(*p) >= 4.5 for p in pairs), (theme, pairs)
    assert contrast('#fff', '#777') < 4.5 < contrast('#fff', '#757575')
