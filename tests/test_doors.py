"""The doors: right arguments at random are taken; where one of them is wrong, it is refused in one sentence of this package's own, and nothing is written.
More calls: `CFG_EDU_EXAMPLES=500 pytest tests/test_doors.py`."""
import math, os, shutil, traceback
from functools import partial
from pathlib import Path
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from cfg_edu import adm, cache, classifier, cli, data, glyphs, imagenet, judges, metrics, mixture, nets, pictures, runs
from cfg_edu import draws, guidance  # noqa: F401 (all rules, by name)
from cfg_edu.doors import find
from cfg_edu.guidance import CFG, rules
from cfg_edu.sampling import sample, samplers
from cfg_edu.schedule import Schedule
from cfg_edu.training import diffusion_learner

tries = settings(max_examples=int(os.environ.get('CFG_EDU_EXAMPLES', 12)), deadline=None, database=None, suppress_health_check=list(HealthCheck))
nan, inf = math.nan, math.inf


def refusal(f):
    "What `f` is refused with: one sentence of this package"
    with pytest.raises((ValueError, TypeError, FileNotFoundError, OSError)) as e: f()
    where = traceback.extract_tb(e.value.__traceback__)[-1].filename
    assert 'cfg_edu' in where, f'{type(e.value).__name__} from {Path(where).name}: {e.value}'
    text = str(e.value)
    assert 8 < len(text) < 400 and '\n' not in text.strip(), text
    return text


def calls(table):
    "Random right arguments from `table`, name → (right ones, wrong ones), and the name of one that is made wrong, or None"
    @st.composite
    def pick(draw):
        args = {k: draw(st.sampled_from(right)) for k, (right, _) in table.items()}
        wrong = draw(st.sampled_from([None, *(k for k, (_, w) in table.items() if w)]))
        if wrong: args[wrong] = draw(st.sampled_from(table[wrong][1]))
        return args, wrong
    return pick()


def door(f, **table):
    "A test of `f`: taken where all is right, refused where one argument is wrong"
    @tries
    @given(calls(table))
    def test(call):
        args, wrong = call
        if wrong is None: f(**args)
        else: refusal(lambda: f(**args))
    return test


def test_a_dotted_path_to_another_kind():
    "What was wanted, what was found, and no entry of it"
    kinds = {'rule': (rules, 'something callable', None), 'sampler': (samplers, 'something callable', None), 'judge': (metrics.judges, 'a subclass of Judge', metrics.Judge),
             'net': (nets.presets, 'a Preset', None), 'data': (data.rungs, 'a Rung', None)}
    for what, (table, wanted, kind) in kinds.items():
        before, callables = dict(table), wanted == 'something callable'
        for path, found in {'torch.nn.Linear': 'which is a class', 'math.pi': 'which is a float'}.items():
            if callables and path == 'torch.nn.Linear': continue
            assert f"or a dotted path to {wanted}, got '{path}', {found}" in refusal(lambda: find(table, path, what, kind))
        assert table == before
    assert find(samplers, 'cfg_edu.sampling.heun', 'sampler') is find(rules, 'cfg_edu.sampling.heun', 'rule')    # whatever is called may come
    assert find(rules, 'cfg_edu.guidance.ClassifierGuided', 'rule') is guidance.ClassifierGuided
    with pytest.raises(ValueError, match="judge must be one of .* a subclass of Judge, got 'torch.nn.Linear'"): judges.get_judge('torch.nn.Linear')


def test_a_rule_or_a_sampler_that_takes_other_arguments():
    "It is callable, and is refused before a network is loaded"
    for table, (what, path) in zip((rules, samplers), dict(rule='cfg_edu.guidance.Interval', sampler='cfg_edu.sampling.sample').items()):
        said = refusal(lambda: draws.Sampling(**{what: path}))
        assert f"{what} must be one of" in said and f"got '{path}' (" in said and 'argument' in said, said
        assert path not in table

n = 24
x, y = torch.rand(n, 1, 8, 8)*2 - 1, torch.arange(n)%3
small = lambda: data.data_dls(x, y, list('abc'), 4)
shares = [0., .1, .5], [-.1, 1.1, nan, inf]

test_schedule = door(Schedule, lam_min=([-20., -6.], [30., nan, -2000.]), lam_max=([6., 20.], [-30., nan, inf]))

test_sample = door(partial(sample, mixture.three()), shape=([(3, 2)], [(0, 2), (3,), (-1, 2), 3, (2., 2)]),
    y=([None, 0, 3, torch.arange(3)], [4, -1, torch.zeros(3), torch.arange(4)%3, torch.zeros(3, 1, dtype=torch.long)]),
    n_steps=([2, 5], [1, 0, -3]), bs=([None, 1, 2], [0, -1]), clip=([None, (-1, 1)], [(1, -1), 3, (0, 0), (nan, 1)]))

test_data_dls = door(data.data_dls, x=([x, x[:,0,0,:2], ((x+1)*127.5).byte()], [x[:1], x*nan, x*7, torch.rand(n+1, 2)]),
    y=([y], [y-1, y+1, torch.arange(n+1)%3]), vocab=([list('abc'), range(3)], []), bs=([1, 4], [0, -1, 100]), valid=([None, [0, 5]], [[], [100], [-100], [.5]]))

test_toys = door(data.toy, name=(list(data.toys), ['nothing', '', None]), n=([1, 50], [0, -1]))
test_digits = door(data.digits, split=(['train', 'valid', 'all'], ['test', None, 0]))
test_rungs = door(partial(data.dls_for, bs=8, n=40), name=(list(data.toys), ['nothing', '', None]))
fonts = pytest.mark.skipif(not os.path.exists(f'{glyphs._ttf}/cmti10.ttf'), reason='this matplotlib lacks a font')
test_glyphs = fonts(door(glyphs.draw_glyphs, n=([0, 2], [-1, 1.5, '3']), size=([8, 16], [7, 0, -1, 2.5]), seed=([0, 3], [-1, .5])))
test_imagenet_classes = door(imagenet.imagenet_classes, order=(['wnid', 'archive'], ['nothing', None]))
test_area = door(pictures.area, img=([torch.rand(9, 7, 3).numpy()], []), size=([1, 7], [0, -1, 8]))


def on_meta(f, **kwargs):
    with torch.device('meta'): return f(**kwargs)

sizes = dict(image_size=([8, 16, (8, 12)], [0, -8, 7, (8, 7), (3, 8, 8)]), in_channels=([1, 3], [0, -1]), model_channels=([4, 8], [0, 3, -2]), num_res_blocks=([1, 2], [0, -1]),
    attn_sizes=([(), (8,)], [(5,)]), channel_mult=([(1, 2)], [()]), n_classes=([1, 10], [0, -1]), dropout=([0., .5], [1., -.1, nan]),
    head_channels=([4], [3, 0]), qkv_order=(['new', 'legacy'], ['nothing']), clock=(['arctan'], ['nothing']))
test_unet = door(partial(on_meta, nets.UNet), **sizes)
test_classifier_unet = door(partial(on_meta, nets.EncoderUNet), **sizes)
test_mlp = door(partial(on_meta, nets.MLP), n_classes=([1, 10], [0, -1]), dim=([1, 2], [0]), width=([4], [0]), depth=([1], [0]), features=([2, 4], [0, 3]))
test_net_for = door(partial(on_meta, nets.net_for), name=(['unet_small'], ['nothing', None, 'mlp', 'adm64']), n_classes=([3], [0]), shape=([(1, 8, 8), (3, 16, 12)], [(), (2,), (1, 8), (1, 9, 9), (3, 8, 9)]))

test_diffusion_learner = door(lambda n_classes, **kw: diffusion_learner(small(), nets.unet_digits(n_classes), **kw),
    n_classes=([3], [2, 4]), predicts=(['v', 'eps', 'x'], ['score', None]), p_uncond=shares, decay=([0., .9], [1., -.1, nan]))
test_classifier_learner = door(lambda n_classes, **kw: classifier.classifier_learner(small(), nets.encoder_digits(n_classes), **kw),
    n_classes=([3], [2, 4]), decay=([0., .9], [1., -.1, nan]), wd=([0., .2], [-1., nan, inf]))
test_uniform_lam = door(classifier.UniformLam, lam_min=([-6.], [7., nan, -inf]), lam_max=([6.], [-7., nan, inf]))
test_implicit_logits = door(partial(classifier.implicit_logits, mixture.three()), x=([torch.rand(2, 2)], [torch.zeros(2, 2, dtype=torch.long)]),
    n_draws=([1, 2], [0, -1]), bs=([1, 500], [0]), prior=([None, [1, 2, 1.]], [[1., 1.], [1, -1, 1.], [1, nan, 1.]]))


@pytest.fixture(scope='module', autouse=True)
def judge(): return judges.get_judge('digits')

real, labels = torch.rand(40, 1, 8, 8)*2 - 1, torch.arange(40)%10
bad = [torch.full((n, 1, 8, 8), nan), torch.rand(n, 8, 8), x[:3], torch.zeros(n, 1, 8, 8, dtype=torch.long), torch.rand(n, 1, 9, 9)]
test_evaluate = door(lambda x, **kw: metrics.evaluate(x, real, **kw), x=([x, ((x+1)*127.5).byte()], [*bad, None]),
    y=([None, torch.arange(n)%10], [torch.arange(n+1)%10, torch.zeros(n, 1)]), judge=(['digits'], ['nothing', '', None]))
test_real = door(lambda real: metrics.evaluate(x, real), real=([real], [torch.full((n, 1, 8, 8), nan), real[:2], real[:,:,:7]]))
test_noise_floor = door(partial(metrics.noise_floor, n_draws=1), real=([real], bad), y=([None, labels], [labels[1:], labels[:,None]]), n=([None, 12], [5, 21, -1]))
test_tradeoff = door(lambda w, y: metrics.tradeoff(mixture.three(), [w], real, y), w=([0., 1.], [-2., nan, inf]), y=([labels[:20]], [labels[:5], labels[:,None]]))
test_cfg = door(lambda w: CFG(mixture.three(), w), w=([-1., 0., 7.5], [-1.5, nan, inf]))
test_get_judge = door(judges.get_judge, name=(['digits'], ['nothing', '', None]))


kinds = dict(empty=b'', noise=bytes(range(256))*9, text=b'hello\n'*9, npz=b'PK\x03\x04' + bytes(99), zip=b'PK\x05\x06' + bytes(18))
readers = dict(load_weights=lambda p, c: adm.load_weights(nets.unet_digits(), p), load_adm=lambda p, c: adm.load_adm(p), load_adm_classifier=lambda p, c: adm.load_adm_classifier(p),
    run=lambda p, c: runs.Run(p).model(), stats=lambda p, c: metrics.real_stats(p, 'digits'), prepare=lambda p, c: pictures.prepare(p, c, 8, 1, False),
    open_cache=lambda p, c: cache.open_cache(p), images=lambda p, c: pictures.images_dls(p, 8, cache=c), imagenet64=lambda p, c: imagenet.imagenet64_dls(p, cache=c),
    cfg_sample=lambda p, c: cli.cfg_sample(str(p)), cfg_evaluate=lambda p, c: cli.cfg_evaluate(str(p)))

@pytest.mark.parametrize('kind', ['missing', 'folder', 'tensors', *kinds])
@pytest.mark.parametrize('reader', readers)
def test_files_of_another_kind(tmp_path, reader, kind):
    p, made = tmp_path/'thing', tmp_path/'cache'
    if kind == 'folder':
        p.mkdir()
        (p/'file.txt').write_text('no picture')
    elif kind == 'tensors': torch.save(dict(a=torch.zeros(3)), p)
    elif kind != 'missing': p.write_bytes(kinds[kind])
    refusal(lambda: readers[reader](p, made))
    assert not made.exists()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A network that has hardly been trained"
    d = tmp_path_factory.mktemp('doors')/'run'
    cli.cfg_train('digits', str(d), steps=1, every=1)
    return d

how = dict(sampler=['nothing', None], n_steps=[1, 0], v=[-.1, nan], bs=[0], precision=['fp8'], seed=[-1])
commands = dict(
    cfg_train=dict(data=['nothing', ''], net=['nothing', 'adm64', 'mlp'], steps=[0, -1], bs=[0, -1, 10**6], lr=[0., -1., nan, inf], decay=[1., -.1, nan], p_uncond=[-.1, 1.1],
        predicts=['score'], lam_min=[30., nan], grad_clip=[0., -1., nan], precision=['fp8'], seed=[-1], warmup=[0, -1], every=[0], path=['/nothing/here']),
    cfg_tradeoff=dict(how, data=['nothing', 'moons'], ws=['', 'a', '-2', 'nan'], n=[0, -1], judge=['nothing', 'glyphs32'], rule=['nothing', 'math.nothing']),
    cfg_sample=dict(how, w=[-1.5, nan, inf], n=[0, -1], y=[-1, 11], rule=['nothing']), cfg_evaluate=dict(how, w=[-1.5, nan], n=[0, -1, 1], judge=['nothing', 'glyphs32'], stats=['/nothing/here.npz']),
    cfg_prepare=dict(path=['/nothing/here', '']))
cases = [(c, k, v) for c, table in commands.items() for k, vs in table.items() for v in vs]

@pytest.mark.parametrize('command, name, value', cases, ids=lambda o: str(o))
def test_commands(run, tmp_path, command, name, value):
    "One argument wrong, the others right: refused, and no file written"
    out = tmp_path/'run'
    if command in ('cfg_sample', 'cfg_evaluate'):
        shutil.copytree(run, out)
        where = dict(run=str(out))
    else: where = dict(out=str(out))
    before = sorted(tmp_path.rglob('*'))
    refusal(lambda: getattr(cli, command)(**{**where, name: value}))
    assert sorted(o for o in tmp_path.rglob('*') if o != out) == [o for o in before if o != out]
