/* The site's search looks for the whole phrase. Where that is nowhere, say for a question, this looks for its words instead: first come the sections that have most of them, in the heading before the text. */
{
const small = new Set('a about an and any are as at be but by can could do does for from get give have how i if in into is it its just make many me much my need of on one or should so than that the their them there these this to too use used using want was we what when where which who why will with would you your'.split(' '))
function wordsOf(query) {
  const all = (query.toLowerCase().match(/[\p{L}\p{N}_]{2,}/gu) ?? []).map(w => w.length > 3 ? w.replace(/(?<=[^s])s$/, '') : w)
  return [...new Set(all.filter(w => !small.has(w)))]
}
function byWords(docs, query, limit = 50) {
  const words = wordsOf(query)
  if (!words.length) return []
  const often = words.map(w => docs.filter(d => `${d.title} ${d.section} ${d.text}`.toLowerCase().includes(w)).length)
  const rare = often.map(n => n ? Math.log(1 + docs.length/n) : 0)            // a word that is on every page says little
  return docs.map((item, refIndex) => {
    const [title, section, text] = [item.title, item.section, item.text].map(t => (t ?? '').toLowerCase())
    const has = words.map(w => title.includes(w) || section.includes(w) || text.includes(w))
    const score = words.reduce((s, w, i) => s + rare[i]*(has[i] ? 1 : 0) + .6*rare[i]*(title.includes(w) ? 1 : 0) + .6*rare[i]*(section.includes(w) ? 1 : 0), 0)
    return {item, refIndex, score, n: has.filter(Boolean).length}
  }).filter(r => r.n >= Math.max(1, words.length/2)).sort((a, b) => b.score - a.score).slice(0, limit)
}
if (typeof window !== 'undefined' && window.Fuse) {
  const phrase = window.Fuse.prototype.search
  window.Fuse.prototype.search = function (query, options) {
    const found = phrase.call(this, query, options)
    return found.length || typeof query !== 'string' ? found : byWords(this._docs ?? [], query, options?.limit)
  }
}
// a formula in a line that is wider than its column scrolls inside itself: MathJax does not break it, and it would widen a telephone's page
function widths() {
  for (const f of document.querySelectorAll('main span.math.inline')) {
    f.classList.remove('wide')
    const drawn = f.querySelector('mjx-math'), column = f.closest('p, li, dd, figcaption, div')
    if (drawn && column && !f.closest('table') && drawn.getBoundingClientRect().width > column.clientWidth) f.classList.add('wide')
  }
}
if (typeof window !== 'undefined') {
  const typeset = () => Promise.resolve(window.MathJax?.startup?.promise).then(widths)
  window.addEventListener('load', typeset)
  window.addEventListener('resize', typeset)
}
if (typeof module !== 'undefined') module.exports = {wordsOf, byWords}
}
