"""Checks a built site: `python .ci/links.py DIR [ADDRESS]`, where ADDRESS is the site's own.

Relative links and those to ADDRESS must lead to a file of DIR, a part after # to an element of it, and a link that is called as a heading of that page is called to that heading, not to one that differs in capitals (`CFG`, `cfg`). Pictures must say what they show; no page has one id twice. The page's card is a file; its sections are in its contents; its chapter is marked in the bar; it loads site.js; nothing of its text is markdown that was not understood. llms.txt names every page. Links to other sites are counted, not followed."""
import re, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

root, own, found = Path(sys.argv[1]).resolve(), (sys.argv[2].rstrip('/')+'/' if len(sys.argv) > 2 else 'http://site/'), []
empty = {'area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source', 'track', 'wbr'}
raw = re.compile(r'\[`[^`\n]+`\]\(|\]\((?:https?:|[\w./-]+\.(?:ipynb|html)\b)|(?:^|\s):::(?:\s|$)|(?<![\w`@])@(?:fig|eq|tbl|sec|wrn|nte)-[\w-]+|\?@[\w-]+|<(?:\w+\.)*\w+ object at 0x')

class Page(HTMLParser):
    "Ids, headings, links and pictures of a page"
    def __init__(self, f):
        super().__init__()
        self.ids, self.links, self.twice, self.no_alt, self.heads, self.cards, self.listed, self.scripts, self.marked, self.raw, self.open = set(), [], set(), 0, {}, [], set(), [], 0, [], []
        self.feed(f.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if (i := a.get('id')) and tag not in ('link', 'style', 'meta', 'script'): (self.twice if i in self.ids else self.ids).add(i)
        if tag == 'a' and a.get('name'): self.ids.add(a['name'])
        if tag in ('a', 'link') and a.get('href') is not None and a.get('rel') not in ('preconnect', 'dns-prefetch'): self.links.append([a['href'], ''])
        if tag in ('img', 'script', 'source', 'iframe') and a.get('src') is not None: self.links.append([a['src'], ''])
        if tag == 'img' and a.get('alt') is None: self.no_alt += 1
        if tag == 'script' and a.get('src'): self.scripts.append(a['src'])
        if tag == 'meta' and (a.get('property') or a.get('name')) in ('og:image', 'twitter:image'): self.cards.append(a.get('content') or '')
        kinds = (a.get('class') or '').split()
        if tag == 'a' and {'dropdown-toggle', 'active'} <= set(kinds): self.marked += 1
        if tag == 'a' and self.inside(id='TOC'): self.listed.add(unquote((a.get('href') or '').lstrip('#')))
        if tag in ('h2', 'h3', 'h4') and a.get('data-anchor-id') and 'anchored' in kinds: self.heads[a['data-anchor-id']] = (tag, '')
        if tag not in empty: self.open.append((tag, a))
    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in empty: self.handle_endtag(tag)
    def handle_endtag(self, tag):
        if any(t == tag for t, _ in self.open):
            while self.open.pop()[0] != tag: pass
    def inside(self, tag=None, id=None): return next((a for t, a in reversed(self.open) if (tag is None or t == tag) and (id is None or a.get('id') == id)), None)
    def handle_data(self, text):
        if self.inside('a') is not None and self.links: self.links[-1][1] += text
        for h in ('h2', 'h3', 'h4'):
            if (a := self.inside(h)) is not None and a.get('data-anchor-id') in self.heads: self.heads[a['data-anchor-id']] = (h, self.heads[a['data-anchor-id']][1]+text)
        if self.inside('main') is not None and self.inside('script') is None and self.inside('style') is None:
            code = self.inside('code') is not None or self.inside('pre') is not None
            if m := (re.search(r'\[`[^`\n]+`\]\(http|<__main__\.\w+ object at 0x', text) if code else raw.search(text)): self.raw.append(text[max(0, m.start()-20):m.end()+30].strip())

pages = {f: Page(f) for f in sorted(root.rglob('*.html')) if 'site_libs' not in f.parts}
inside = outside = 0
for f, page in pages.items():
    name = f.relative_to(root).as_posix()
    if page.no_alt: found.append(f'{name}: {page.no_alt} pictures without alt')
    for i in sorted(page.twice): found.append(f'{name}: the id {i!r} twice')
    for t in page.raw: found.append(f'{name}: markdown that was not understood, {t!r}')
    for link, called in page.links:
        if link.startswith(('data:', 'mailto:', 'javascript:')): continue
        url, part = urldefrag(urljoin(own+name, link))
        if not url.startswith(own): outside += 1; continue
        inside += 1
        to = root/unquote(urlparse(url).path[len(urlparse(own).path):])
        if to.is_dir(): to = to/'index.html'
        if not to.exists(): found.append(f'{name}: {link} leads nowhere'); continue
        if not part or to not in pages: continue
        if unquote(part) not in pages[to].ids: found.append(f'{name}: {link}: there is no such place'); continue
        called, heads = called.strip().removesuffix('()'), pages[to].heads
        there = heads.get(unquote(part), ('', called))[1].strip()
        if there != called and there.lower() == called.lower() and any(t.strip() == called for _, t in heads.values()): found.append(f'{name}: the link called {called} leads to {there}')
    if name == '404.html': continue
    if len(page.cards) != 2: found.append(f'{name}: {len(page.cards)} addresses of its card, not og:image and twitter:image')
    for card in page.cards:
        if 'data:' in card or not card.startswith(('http://', 'https://')): found.append(f'{name}: its card is no address: {card[:60]}')
        elif card.startswith(own) and not (root/unquote(card[len(own):])).exists(): found.append(f'{name}: no file for its card, {card}')
    if page.marked != 1: found.append(f'{name}: {page.marked} chapters are marked in the bar')
    if not any(s.split('/')[-1] == 'site.js' for s in page.scripts): found.append(f'{name}: does not load site.js')
    missing = [i for i, (h, _) in page.heads.items() if h == 'h2' and i not in page.listed]
    if missing: found.append(f'{name}: not in its list of contents: {", ".join(map(str, missing))}')
if pages:
    llms = (root/'llms.txt').read_text(encoding='utf-8') if (root/'llms.txt').exists() else ''
    if not llms: found.append('no llms.txt')
    for f in pages:
        name = f.relative_to(root).as_posix().replace('.html', '.md')
        if llms and name != '404.md' and (f'/{name})' not in llms and f'({name})' not in llms or not (root/name).exists()): found.append(f'llms.txt: without {name}')
        elif (root/name).exists() and re.search(r'data:image/[\w+.-]+;base64,[\w+/]{20}', (root/name).read_text(encoding='utf-8')): found.append(f'{name}: the data of a picture')
print('\n'.join(found) or f'{len(pages)} pages, {inside} links inside, {outside} to other sites: nothing found')
sys.exit(bool(found) or not pages)
