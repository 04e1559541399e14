"""Checks every link of a built site: `python .ci/links.py DIR [ADDRESS]`, where ADDRESS is the site's own.

Relative links and those to ADDRESS must lead to a file of DIR, a part after # to an element of it; pictures must say what they show; no page has one id twice. Links to other sites are counted, not followed."""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

root, own, found = Path(sys.argv[1]).resolve(), (sys.argv[2].rstrip('/')+'/' if len(sys.argv) > 2 else 'http://site/'), []

class Page(HTMLParser):
    "Ids, links and pictures of a page"
    def __init__(self, f):
        super().__init__()
        self.ids, self.links, self.twice, self.no_alt = set(), [], set(), 0
        self.feed(f.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if (i := a.get('id')) and tag not in ('link', 'style', 'meta', 'script'): (self.twice if i in self.ids else self.ids).add(i)
        if tag == 'a' and a.get('name'): self.ids.add(a['name'])
        if tag in ('a', 'link') and a.get('href') is not None and a.get('rel') not in ('preconnect', 'dns-prefetch'): self.links.append(a['href'])
        if tag in ('img', 'script', 'source', 'iframe') and a.get('src') is not None: self.links.append(a['src'])
        if tag == 'img' and a.get('alt') is None: self.no_alt += 1
    handle_startendtag = handle_starttag

pages = {f: Page(f) for f in sorted(root.rglob('*.html'))}
inside = outside = 0
for f, page in pages.items():
    name = f.relative_to(root).as_posix()
    if page.no_alt: found.append(f'{name}: {page.no_alt} pictures without alt')
    for i in sorted(page.twice): found.append(f'{name}: the id {i!r} twice')
    for link in page.links:
        if link.startswith(('data:', 'mailto:', 'javascript:')): continue
        url, part = urldefrag(urljoin(own+name, link))
        if not url.startswith(own): outside += 1; continue
        inside += 1
        to = root/unquote(urlparse(url).path[len(urlparse(own).path):])
        if to.is_dir(): to = to/'index.html'
        if not to.exists(): found.append(f'{name}: {link} leads nowhere')
        elif part and to in pages and unquote(part) not in pages[to].ids: found.append(f'{name}: {link}: there is no such place')
print('\n'.join(found) or f'{len(pages)} pages, {inside} links inside, {outside} to other sites: nothing found')
sys.exit(bool(found) or not pages)
