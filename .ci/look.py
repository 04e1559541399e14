"""Looks at a built site in a browser: `python .ci/look.py DIR [--npm FOLDER] [PAGE …]`, with Chrome or Chromium. FOLDER holds packages that pages load from jsdelivr, for a machine without a network.

No page may be wider than a window of 1280, 390 or 360 pixels, and all text must stand out from what it is written on by 4.5:1, by day and by night. It prints each page's height in screens of 1280×800."""
import argparse, json, shutil, subprocess, sys, tempfile, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

arg = argparse.ArgumentParser()
arg.add_argument('dir', type=Path); arg.add_argument('pages', nargs='*'); arg.add_argument('--npm', type=Path)
arg = arg.parse_intermixed_args()
pages = arg.pages or sorted(p.relative_to(arg.dir).as_posix() for p in arg.dir.rglob('*.html') if 'site_libs' not in p.parts)
script = r'''
const wait = ms => new Promise(r => setTimeout(r, ms))
const settled = async w => { await Promise.race([(async () => { await w.document.fonts.ready; if (w.document.querySelector('span.math')) { while (!w.MathJax?.startup?.promise) await wait(50); await w.MathJax.startup.promise } })(), wait(20000)]); await wait(400) }
function wide(d) {
  const s = d.scrollingElement, out = []
  if (s.scrollWidth <= s.clientWidth) return null
  const clipped = e => { for (let p = e; p && p !== d.body; p = p.parentElement) { const c = d.defaultView.getComputedStyle(p); if (c.position === 'fixed' || p !== e && c.overflowX !== 'visible') return true } }
  for (const e of d.body.querySelectorAll('*')) { const r = e.getBoundingClientRect(); if (r.width && r.right > s.clientWidth + .5 && !clipped(e)) out.push(`${e.tagName.toLowerCase()} «${(e.textContent ?? '').trim().replace(/\s+/g, ' ').slice(0, 50)}»`) }
  return `${s.scrollWidth} > ${s.clientWidth}: ${out.at(-1) ?? '?'}`
}
function faint(d) {
  const style = e => d.defaultView.getComputedStyle(e), cv = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true})
  const rgba = c => { cv.clearRect(0, 0, 1, 1); cv.fillStyle = c; cv.fillRect(0, 0, 1, 1); const p = cv.getImageData(0, 0, 1, 1).data; return [p[0], p[1], p[2], p[3]/255] }
  const lin = x => (x /= 255) <= .04045 ? x/12.92 : ((x + .055)/1.055)**2.4, lum = c => .2126*lin(c[0]) + .7152*lin(c[1]) + .0722*lin(c[2]), over = (a, b) => [0, 1, 2].map(i => a[i]*a[3] + b[i]*(1 - a[3]))
  for (const x of d.querySelectorAll('details')) x.open = true
  for (const x of d.querySelectorAll('.callout-collapse')) x.classList.add('show')
  const found = {}, known = {}, walker = d.createTreeWalker(d.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const t = walker.currentNode, e = t.parentElement
    if (!t.data.trim() || !e || e.closest('script, style, noscript, template, option, mjx-assistive-mml')) continue
    const box = e.getBoundingClientRect(), s = style(e)
    if (box.width <= 1 || !box.height || s.visibility === 'hidden') continue
    let shown = 1; const layers = []
    for (let p = e; p; p = p.parentElement) { const c = style(p), b = known[c.backgroundColor] ??= rgba(c.backgroundColor); shown *= +c.opacity; if (b[3] > 0) layers.push(b); if (b[3] === 1) break }
    const bg = layers.reverse().reduce((a, l) => over(l, a), [255, 255, 255]), f = known[s.color] ??= rgba(s.color), fg = over([f[0], f[1], f[2], f[3]*shown], bg)
    if (shown < .05) continue
    const a = lum(fg), b = lum(bg), k = (Math.max(a, b) + .05)/(Math.min(a, b) + .05)
    if (k < 4.495) found[`${e.tagName.toLowerCase()}${e.className && typeof e.className === 'string' ? '.' + e.className.trim().split(/\s+/)[0] : ''} ${fg.map(Math.round)} on ${bg.map(Math.round)}`] ??= `${k.toFixed(2)}:1 «${t.data.trim().slice(0, 40)}»`
  }
  return found
}
(async () => {
  for (const page of PAGES) {
    const told = {page, found: []}, f = document.createElement('iframe')
    try {
      localStorage.removeItem('quarto-color-scheme')
      f.style.cssText = 'width: 1280px; height: 800px; border: 0'; f.src = '/' + page
      document.body.append(f); await new Promise(r => f.onload = r); await settled(f.contentWindow)
      const d = f.contentDocument, w = f.contentWindow
      told.screens = d.scrollingElement.scrollHeight/800
      for (const width of [1280, 390, 360]) { f.style.width = width + 'px'; await wait(350); const o = wide(d); if (o) told.found.push(`scrolls sideways at ${width}, ${o}`) }
      f.style.width = '1280px'; await wait(200)
      for (const dark of [false, true]) {
        if (d.body.classList.contains('quarto-dark') !== dark) { w.quartoToggleColorScheme?.(); await wait(900) }
        if (d.body.classList.contains('quarto-dark') !== dark) told.found.push('has no ' + (dark ? 'dark' : 'light') + ' look')
        for (const [k, v] of Object.entries(faint(d))) told.found.push(`${dark ? 'dark' : 'light'}: ${k}, ${v}`)
      }
      told.formulas = [d.querySelectorAll('mjx-container').length, d.querySelectorAll('span.math').length]
      if (told.formulas[0] < told.formulas[1]) told.found.push(`${told.formulas[0]} of ${told.formulas[1]} formulas are set`)
    } catch (e) { told.found.push(String(e)) }
    f.remove(); await fetch('/__told__', {method: 'POST', body: JSON.stringify(told)})
  }
  await fetch('/__told__', {method: 'POST', body: 'null'})
})()'''
told, end = [], threading.Event()

class Server(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
    def send(self, body, kind='text/html; charset=utf-8'):
        self.send_response(200); self.send_header('Content-Type', kind); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        path = self.path.partition('?')[0]
        if path == '/__look__': self.send(f'<!doctype html><body><script>const PAGES = {json.dumps(pages)}\n{script}</script>'.encode())
        elif path.startswith('/__npm__/') and arg.npm:
            scope, _, rest = path[9:].partition('/') if not path[9:].startswith('@') else ('/'.join(path[9:].split('/')[:2]), '', '/'.join(path[9:].split('/')[2:]))
            f = arg.npm/(scope[0]+scope[1:].partition('@')[0])/rest
            self.send(f.read_bytes(), self.guess_type(str(f))) if f.is_file() else self.send_error(404)
        elif arg.npm and path.endswith('.html') and (f := arg.dir/path[1:]).is_file(): self.send(f.read_bytes().replace(b'https://cdn.jsdelivr.net/npm/', b'/__npm__/'))
        else: super().do_GET()
    def do_POST(self):
        o = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.send(b'')
        if o is None: end.set(); return
        told.append(o)
        print(f"{o['page']}: {o.get('screens', 0):.1f} screens", *o['found'], sep='\n    ', flush=True)

chrome = next(filter(None, map(shutil.which, ('google-chrome', 'google-chrome-stable', 'chromium', 'chromium-browser'))), None)
if not chrome: sys.exit('neither Chrome nor Chromium is installed')
server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Server, directory=str(arg.dir)))
threading.Thread(target=server.serve_forever, daemon=True).start()
with tempfile.TemporaryDirectory() as home:
    browser = subprocess.Popen([chrome, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars', '--no-first-run', f'--user-data-dir={home}', '--window-size=1400,900', '--remote-debugging-port=0', f'http://127.0.0.1:{server.server_port}/__look__'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    end.wait(60 + 60*len(pages))
    browser.terminate(); browser.wait(20)
bad = sum(len(o['found']) for o in told)
print(f"{len(told)} of {len(pages)} pages, {sum(o.get('screens', 0) for o in told):.0f} screens: {bad or 'nothing'} found")
sys.exit(bool(bad) or len(told) < len(pages))
