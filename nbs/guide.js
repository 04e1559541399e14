// Guidance in a mixture of round Gaussians, a class each, and a canvas to play with it.
// The first half are the closed forms of `Mixture`, `Sampler` and `CFG`; tests/test_guide.py compares them.

export const amps = lam => [1/Math.sqrt(1 + Math.exp(-lam)), 1/Math.sqrt(1 + Math.exp(lam))]

// λ(u) = −2 log tan(au + b) between −20 and 20, and the grids of T points
const b0 = Math.atan(Math.exp(-10)), a0 = Math.PI/2 - 2*b0
export const lamOf = u => Math.max(-20, Math.min(20, u < .5 ? -2*Math.log(Math.tan(a0*u + b0)) : 2*Math.log(Math.tan(a0*(1-u) + b0))))
export const uOf = lam => (Math.atan(Math.exp(-lam/2)) - b0)/a0
const even = (n, from, to) => Array.from({length: n}, (_, i) => from + (to-from)*i/(n-1))
export const grids = {angle: n => even(n, 1, 0).map(lamOf), uniform: n => even(n, -6, 6)}

// p(c|z) for each class, and the classes' log densities at λ; world = {means: [[x, y], …], s}
export function posterior(world, lam, x, y) {
  const [alpha, sigma] = amps(lam), v = (alpha*world.s)**2 + sigma**2
  const logp = world.means.map(m => -((x-alpha*m[0])**2 + (y-alpha*m[1])**2)/(2*v) - Math.log(2*Math.PI*v))
  const top = Math.max(...logp), e = logp.map(l => Math.exp(l-top)), sum = e.reduce((a, b) => a+b)
  return {logp, p: e.map(o => o/sum)}
}

// ε̃ = (1+w)ε_c − wε_∅ for every point of z = [x0, y0, x1, y1, …] with classes `of`; class n (null) is no class
export function guided(world, lam, z, of, w, out) {
  const [alpha, sigma] = amps(lam), k = world.means.length, v = (alpha*world.s)**2 + sigma**2, p = new Float64Array(k)
  for (let i = 0; i < of.length; i++) {
    const x = z[2*i], y = z[2*i+1]
    let top = -Infinity, sum = 0, mx = 0, my = 0
    for (let c = 0; c < k; c++) {
      const m = world.means[c]
      p[c] = -((x-alpha*m[0])**2 + (y-alpha*m[1])**2)/(2*v)
      if (p[c] > top) top = p[c]
    }
    for (let c = 0; c < k; c++) {
      const e = Math.exp(p[c]-top)
      sum += e; mx += e*world.means[c][0]; my += e*world.means[c][1]
    }
    mx /= sum; my /= sum                                     // E[mean | z]
    const m = of[i] < k ? world.means[of[i]] : [mx, my], f = sigma/v
    out[2*i]   = f*(x - alpha*((1+w)*m[0] - w*mx))
    out[2*i+1] = f*(y - alpha*((1+w)*m[1] - w*my))
  }
  return out
}

// a sampler is a table of rows (λ′, a, b, c, d): z′ = az + bx̂ + c(x̂ before) + dn
export const samplers = {
  ancestral: (lams, v) => lams.slice(1).map((to, i) => {
    const from = lams[i], q = -Math.expm1(from-to), [alpha, sigma] = amps(from), [alpha2, sigma2] = amps(to)
    const d = Math.sqrt(q)*sigma2**(1-v)*sigma**v
    return [to, Math.exp(from-to)*alpha2/alpha, q*alpha2, 0, d]
  }),
  ddim: lams => lams.slice(1).map((to, i) => {
    const from = lams[i], sigma = amps(from)[1], [alpha2, sigma2] = amps(to)
    return [to, sigma2/sigma, -alpha2*Math.expm1((from-to)/2), 0, 0]
  }),
  dpmpp: lams => samplers.ddim(lams).map(([to, a, b], i) => {
    const c = i ? (lams[i+1]-lams[i])/(2*(lams[i]-lams[i-1])) : 0
    return [to, a, (1+c)*b, -c*b, 0]
  })
}

// walks z (Float64Array) along the rows, in place; `noise(step)` gives an array; the result is the last x̂
export function walk(world, lams, rows, z, of, w, noise, see) {
  const eps = new Float64Array(z.length), x = new Float64Array(z.length), before = new Float64Array(z.length)
  for (let i = 0; i < lams.length; i++) {
    const [alpha, sigma] = amps(lams[i])
    guided(world, lams[i], z, of, w, eps)
    for (let j = 0; j < z.length; j++) x[j] = (z[j] - sigma*eps[j])/alpha
    if (see) see(i, z, x)
    if (i == rows.length) return x
    const [, a, b, c, d] = rows[i], n = d ? noise(i) : null
    for (let j = 0; j < z.length; j++) {
      z[j] = a*z[j] + b*x[j] + (c ? c*before[j] : 0) + (d ? d*n[j] : 0)
      before[j] = x[j]
    }
  }
}

// ---- the canvas ----

function normals(n, seed) {                                  // the same noise in every picture
  const out = new Float64Array(n)
  const rand = () => { seed = seed + 0x6D2B79F5 | 0; let t = Math.imul(seed ^ seed >>> 15, 1 | seed); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t; return ((t ^ t >>> 14) >>> 0)/4294967296 }
  for (let i = 0; i < n; i += 2) {
    const r = Math.sqrt(-2*Math.log(1-rand())), t = 2*Math.PI*rand()
    out[i] = r*Math.cos(t)
    if (i+1 < n) out[i+1] = r*Math.sin(t)
  }
  return out
}

const colors = ['#0072B2', '#E69F00', '#009E73'], bright = ['#56B4E9', '#F0B93A', '#2FC79A'], reach = 1.6

function control(form, label, make) {
  const row = document.createElement('label'), out = document.createElement('output')
  row.append(Object.assign(document.createElement('span'), {textContent: label}), make, out)
  form.append(row)
  return out
}

export function play(figure) {
  const n = Number(figure.dataset.points || 1000), of = Int32Array.from({length: n}, (_, i) => i%3)
  const state = {w: 1, v: 0, T: 24, sampler: 'dpmpp', at: 1, field: false, density: false}
  const start = [90, 210, 330].map(t => [.4*Math.cos(t*Math.PI/180), .4*Math.sin(t*Math.PI/180)])
  const world = {means: start.map(m => [...m]), s: .2}
  const first = normals(2*n, 1), later = []
  const noise = i => later[i] ??= normals(2*n, 100+i)
  figure.replaceChildren()
  const stage = document.createElement('div'), canvas = document.createElement('canvas'), form = document.createElement('form')
  stage.className = 'stage'
  canvas.setAttribute('role', 'img')
  stage.append(canvas)
  figure.append(stage, form)
  form.onsubmit = e => e.preventDefault()

  let asked = false
  const redraw = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw() }) } }
  const slider = (key, label, min, max, step, say = String) => {
    const input = Object.assign(document.createElement('input'), {type: 'range', min, max, step, value: state[key]})
    const out = control(form, label, input)
    const show = () => { out.textContent = say(state[key]); input.setAttribute('aria-valuetext', say(state[key])) }
    input.oninput = () => { state[key] = Number(input.value); show(); redraw() }
    input.setAttribute('aria-label', label)
    show()
    return {input, show}
  }
  const box = (key, label) => {
    const input = Object.assign(document.createElement('input'), {type: 'checkbox', checked: state[key]})
    control(form, label, input)
    input.oninput = () => { state[key] = input.checked; redraw() }
  }
  slider('w', 'w, guidance weight', -1, 6, .1, w => w.toFixed(1))
  const select = document.createElement('select')
  for (const [key, name] of [['dpmpp', 'DPM-Solver++ (2M)'], ['ddim', 'DDIM'], ['ancestral', 'ancestral']]) select.append(new Option(name, key))
  select.value = state.sampler
  select.setAttribute('aria-label', 'sampler')
  control(form, 'sampler', select)
  slider('T', 'T, calls', 2, 128, 1)
  const v = slider('v', 'v, noise of the ancestral steps', 0, 1, .05, v => v.toFixed(2))
  select.oninput = () => { state.sampler = select.value; v.input.disabled = select.value != 'ancestral'; redraw() }
  v.input.disabled = true
  const time = slider('at', 'how far: 0 noise, 1 done', 0, 1, .01, t => t.toFixed(2))
  box('field', 'where the points are pushed (blue class)')
  box('density', 'the density one would expect, p(x|c)p(c|x)ʷ')
  const buttons = document.createElement('div')
  const button = (text, f) => { const b = Object.assign(document.createElement('button'), {type: 'button', textContent: text}); b.onclick = f; buttons.append(b); return b }
  let running = 0
  const run = button('▶ from noise', () => {
    cancelAnimationFrame(running)
    const t0 = performance.now(), step = t => {
      state.at = Math.min(1, (t-t0)/4000)
      time.input.value = state.at; time.show(); redraw()
      if (state.at < 1) running = requestAnimationFrame(step)
    }
    running = requestAnimationFrame(step)
  })
  button('means back', () => { world.means = start.map(m => [...m]); place(); redraw() })
  form.append(buttons)

  const handles = world.means.map((_, c) => {               // the means: by mouse, finger or arrow keys
    const h = document.createElement('button')
    h.type = 'button'; h.className = 'mean'
    h.onpointerdown = e => { h.setPointerCapture(e.pointerId); h.dataset.held = 1 }
    h.onpointerup = h.onpointercancel = () => { delete h.dataset.held }
    h.onpointermove = e => {
      if (!h.dataset.held) return
      const r = canvas.getBoundingClientRect()
      move(c, (2*(e.clientX-r.left)/r.width - 1)*reach, (1 - 2*(e.clientY-r.top)/r.height)*reach)
    }
    h.onkeydown = e => {
      const d = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[e.key]
      if (d) { e.preventDefault(); move(c, world.means[c][0] + .05*d[0], world.means[c][1] + .05*d[1]) }
    }
    stage.append(h)
    return h
  })
  function move(c, x, y) {
    world.means[c] = [x, y].map(o => Math.max(-1.5, Math.min(1.5, o)))
    place(); redraw()
  }
  function place() {
    world.means.forEach((m, c) => {
      handles[c].style.left = `${50*(1 + m[0]/reach)}%`
      handles[c].style.top = `${50*(1 - m[1]/reach)}%`
      handles[c].setAttribute('aria-label', `mean of class ${c+1} at ${m[0].toFixed(2)}, ${m[1].toFixed(2)}; arrow keys move it`)
    })
  }

  function samples() {
    const lams = grids[state.sampler == 'dpmpp' ? 'uniform' : 'angle'](state.T), rows = samplers[state.sampler](lams, state.v)
    const stop = Math.round(state.at*(lams.length-1)), z = Float64Array.from(first)
    if (state.at >= 1) return {lam: lams.at(-1), x: walk(world, lams, rows, z, of, state.w, noise)}
    walk(world, lams.slice(0, stop+1), rows.slice(0, stop), z, of, state.w, noise)
    return {lam: lams[stop], x: z}
  }

  function draw() {
    const ratio = devicePixelRatio || 1, size = Math.round(stage.clientWidth*ratio)
    if (!size) return
    if (canvas.width != size) canvas.width = canvas.height = size
    const ctx = canvas.getContext('2d'), dark = document.body.classList.contains('quarto-dark'), paint = dark ? bright : colors
    const ink = getComputedStyle(document.body).color, px = x => (1 + x/reach)*size/2, py = y => (1 - y/reach)*size/2
    const {lam, x} = samples(), [alpha] = amps(lam)
    ctx.clearRect(0, 0, size, size)
    if (state.density) heat(ctx, size, paint)
    ctx.lineWidth = 1.5*ratio
    world.means.forEach((m, c) => {                          // 85 % of a class lie in its circle
      ctx.strokeStyle = paint[c]
      ctx.beginPath(); ctx.arc(px(m[0]), py(m[1]), world.s*Math.sqrt(-2*Math.log(.15))*size/2/reach, 0, 7); ctx.stroke()
    })
    for (let c = 0; c < 3; c++) {
      ctx.fillStyle = paint[c]
      for (let i = c; i < n; i += 3) ctx.fillRect(px(x[2*i]) - ratio, py(x[2*i+1]) - ratio, 2*ratio, 2*ratio)
    }
    if (state.field) arrows(ctx, lam, ink, px, py, ratio)
    const own = [0, 0, 0].map((_, c) => { let k = 0; for (let i = c; i < n; i += 3) { const p = posterior(world, 20, x[2*i], x[2*i+1]).p; if (p[c] == Math.max(...p)) k++ } return k })
    const share = own.reduce((a, b) => a+b)/n
    canvas.setAttribute('aria-label', `${n} samples of three classes at w = ${state.w}; ${(100*share).toFixed(1)} % lie where their own class is the most probable`)
    said.textContent = `λ = ${lam.toFixed(1)}: ${(100*share).toFixed(1)} % of the points lie where their own class is the most probable.`
  }
  function arrows(ctx, lam, ink, px, py, ratio) {
    const m = 17, z = new Float64Array(2*m*m), one = new Int32Array(m*m), f = new Float64Array(2*m*m)
    for (let i = 0; i < m*m; i++) { z[2*i] = (2*(i%m+.5)/m - 1)*reach; z[2*i+1] = (2*(Math.floor(i/m)+.5)/m - 1)*reach }
    guided(world, lam, z, one, state.w, f)
    let top = 1e-9
    for (let i = 0; i < m*m; i++) top = Math.max(top, Math.hypot(f[2*i], f[2*i+1]))
    ctx.strokeStyle = ink; ctx.globalAlpha = .6; ctx.lineWidth = ratio
    for (let i = 0; i < m*m; i++) {                          // against the noise
      const s = -.09/Math.sqrt(top*Math.hypot(f[2*i], f[2*i+1]) + 1e-9)*1.6, x0 = z[2*i], y0 = z[2*i+1], x1 = x0 + s*f[2*i], y1 = y0 + s*f[2*i+1]
      const t = Math.atan2(py(y1)-py(y0), px(x1)-px(x0)), head = 4*ratio
      ctx.beginPath(); ctx.moveTo(px(x0), py(y0)); ctx.lineTo(px(x1), py(y1))
      for (const turn of [2.6, -2.6]) { ctx.moveTo(px(x1), py(y1)); ctx.lineTo(px(x1) + head*Math.cos(t+turn), py(y1) + head*Math.sin(t+turn)) }
      ctx.stroke()
    }
    ctx.globalAlpha = 1
  }
  function heat(ctx, size, paint) {
    const m = 96, image = new ImageData(m, m), best = [0, 0, 0], all = []
    for (let i = 0; i < m*m; i++) {
      const {logp, p} = posterior(world, 20, (2*(i%m+.5)/m - 1)*reach, (1 - 2*(Math.floor(i/m)+.5)/m)*reach)
      all.push(logp.map((l, c) => { const d = Math.exp(l)*p[c]**state.w; if (isFinite(d)) best[c] = Math.max(best[c], d); return isFinite(d) ? d : 0 }))
    }
    all.forEach((ds, i) => {
      const c = ds.reduce((j, d, k) => d/best[k] > ds[j]/best[j] ? k : j, 0), rgb = parseInt(paint[c].slice(1), 16)
      image.data.set([rgb >> 16, rgb >> 8 & 255, rgb & 255, 130*ds[c]/best[c]], 4*i)
    })
    const small = new OffscreenCanvas(m, m)
    small.getContext('2d').putImageData(image, 0, 0)
    ctx.drawImage(small, 0, 0, size, size)
  }
  const said = document.createElement('figcaption')
  said.setAttribute('aria-live', 'polite')
  figure.append(said)
  place(); draw()
  new ResizeObserver(redraw).observe(stage)
  new MutationObserver(redraw).observe(document.body, {attributes: true, attributeFilter: ['class']})
  return {state, world, draw, redraw}
}

if (typeof document != 'undefined') for (const f of document.querySelectorAll('figure.guide')) f.guide = play(f)
