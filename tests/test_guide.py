"The browser's closed forms beside the package's: nbs/guide.js, run by node where there is one."
import json, shutil, subprocess
from pathlib import Path
import pytest, torch
from cfg_edu.guidance import CFG
from cfg_edu.mixture import Mixture
from cfg_edu.sampling import ancestral, ddim, dpmpp_2m
from cfg_edu.schedule import Schedule

script = (Path(__file__).parent.parent/'nbs/guide.js').as_posix()
pytestmark = pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')

def node(code, **told):
    "What `code`, the body of a function of `g` (the script's exports) and `told`, returns"
    program = f"import('file://{script}').then(g => {{ const told = {json.dumps(told)}; const f = (g, told) => {{ {code} }}; console.log(JSON.stringify(f(g, told))) }})"
    return json.loads(subprocess.run(['node', '-e', program], capture_output=True, text=True, check=True, timeout=60).stdout)

def world(seed):
    "Three round Gaussians anywhere, as both sides want them"
    g = torch.Generator().manual_seed(seed)
    means, s = torch.rand(3, 2, generator=g, dtype=torch.float64)*2 - 1, .05 + .4*torch.rand(1, generator=g).item()
    return Mixture([1, 1, 1], means, [s**2]*3), dict(means=means.tolist(), s=s)

def close(a, b, eps): torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64), rtol=eps, atol=eps)

def test_clock():
    u, ns = torch.linspace(0, 1, 41, dtype=torch.float64), (2, 7, 128)
    lams = Schedule().lam(u)
    got = node("return {lams: told.u.map(g.lamOf), u: told.lams.map(g.uOf), grids: told.ns.map(n => [g.grids.angle(n), g.grids.uniform(n)])}", u=u.tolist(), lams=lams[1:-1].tolist(), ns=ns)
    close(got['lams'], lams, 1e-9)
    close(got['u'], u[1:-1], 1e-9)
    for n, (angle, uniform) in zip(ns, got['grids']):
        close(angle, Schedule().grid(n), 1e-9)
        close(uniform, Schedule(-6, 6).grid(n, 'uniform'), 1e-9)

@pytest.mark.parametrize('seed', range(3))
def test_answers(seed):
    "Log densities, posterior and guided noise, at every level, for a class and for none"
    m, told = world(seed)
    levels, ws = (-12., -2., 0., 3., 9.), (-1., 0., 2.5)
    z, y = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), torch.arange(64)%4
    got = node("""return told.levels.map(lam => ({all: told.z.map(p => g.posterior(told.world, lam, ...p)),
        eps: told.ws.map(w => [...g.guided(told.world, lam, told.z.flat(), told.y, w, new Float64Array(128))])}))""", z=z.tolist(), y=y.tolist(), world=told, levels=levels, ws=ws)
    for lam, o in zip(levels, got):
        lams = torch.full((64,), lam, dtype=torch.float64)
        close([p['p'] for p in o['all']], m.classify(z, lams).exp(), 1e-9)
        close([p['logp'] for p in o['all']], torch.stack([m.logp(z, lams, torch.full((64,), c)) for c in range(3)], 1), 1e-9)
        for w, eps in zip(ws, o['eps']): close(torch.tensor(eps, dtype=torch.float64).reshape(-1, 2), CFG(m, w)(z, lams, y), 1e-9)

@pytest.mark.parametrize('name, make', [('ancestral', ancestral), ('ddim', lambda v: ddim()), ('dpmpp', lambda v: dpmpp_2m())])
def test_walks(name, make):
    "Rows of the samplers, and where they lead from the same noise"
    (m, told), n, vs = world(7), 12, (0., .3, 1.)
    g = torch.Generator().manual_seed(3)
    start, noise = torch.randn(30, 2, dtype=torch.float64, generator=g), torch.randn(n, 30, 2, dtype=torch.float64, generator=g)
    lams, y = make(0.).grid(n), torch.arange(30)%3
    got = node("""return told.vs.map(v => { const rows = g.samplers[told.name](told.lams, v), z = Float64Array.from(told.z.flat())
        return {rows, x: [...g.walk(told.world, told.lams, rows, z, told.y, 1.5, i => told.noise[i].flat())]} })""",
        name=name, vs=vs, world=told, lams=lams.tolist(), z=start.tolist(), y=y.tolist(), noise=noise.tolist())
    for v, o in zip(vs, got):
        table, z, before = make(v)(lams), start, 0.
        close(o['rows'], table, 1e-9)
        for i, lam in enumerate(lams):
            alpha, sigma = lam.sigmoid().sqrt(), (-lam).sigmoid().sqrt()
            x = (z - sigma*CFG(m, 1.5)(z, lam.expand(30), y))/alpha
            if i < len(table): z, before = table[i,1]*z + table[i,2]*x + table[i,3]*before + table[i,4]*noise[i], x
        close(torch.tensor(o['x'], dtype=torch.float64).reshape(-1, 2), x, 1e-6)
