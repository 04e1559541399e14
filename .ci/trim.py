"Takes out of a built site what Quarto adds to every page with an HTML output and no page here uses: require.js, jQuery and an old polyfill. `python .ci/trim.py DIR`."
import re, sys
from pathlib import Path

unused = re.compile(r'<script src="https://(?:cdn\.jsdelivr\.net/npm/(?:jquery|requirejs|@jupyter-widgets)|cdnjs\.cloudflare\.com/polyfill)[^>]*></script>'
                    r"|<script type=\"application/javascript\">define\('jquery'.*?</script>")
n = 0
for f in Path(sys.argv[1]).rglob('*.html'):
    new, k = unused.subn('', f.read_text(encoding='utf-8'))
    if k: f.write_text(new, encoding='utf-8')
    n += k
print(f'{n} scripts taken out')
