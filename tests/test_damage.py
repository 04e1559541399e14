"Files with one wrong bit, or cut short, at random places: refused by name, made again, or harmless (Linux)."
import gzip, os, random, shutil, sys, tarfile
from hashlib import md5
from io import BytesIO
from pickle import dumps
from struct import pack
from unittest.mock import patch
import numpy as np, pytest, torch, torchvision
from apart import attempt
from cfg_edu import adm, cli, data, judges, metrics, nets, runs

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='forks')


def bits(*ts): return md5(b''.join(t.detach().numpy().tobytes() for t in ts), usedforsecurity=False).hexdigest()
def state(m): return bits(*(v for _, v in sorted(m.state_dict().items())))


def damaged(folder, files, ask, tmp_path, each=8, seed=0):
    """`ask(folder)` of a copy in which one of `files` has a changed bit or is cut, so many times: it is refused with the file's name, or answers as before.
    A process apart, so that nothing is remembered."""
    rng, note = random.Random(seed), tmp_path/'note'
    def answer(d):
        note.unlink(missing_ok=True)
        said, _ = attempt(lambda: note.write_text(ask(d)), limit=8000)
        return said, note.read_text() if note.exists() else None
    clean = tmp_path/'clean'
    shutil.copytree(folder, clean)
    said, want = answer(clean)
    assert said == 'accepted', said
    refused = 0
    for i in range(each):
        d = tmp_path/'damaged'
        shutil.copytree(folder, d)
        f = d/files[i//2%len(files)]
        body = bytearray(f.read_bytes())
        at = rng.randrange(len(body))
        if i%2: del body[at:]
        else: body[at] ^= 1 << rng.randrange(8)
        f.write_bytes(body)
        said, got = answer(d)
        how = f"{f.name}, {'cut' if i%2 else 'a bit'} at {at:,}"
        names = f.name.split('.')[0] in said or '*-ubyte.gz' in said
        assert said.startswith('refused') and names or (said, got) == ('accepted', want), f'{how}: {said}'
        refused += said.startswith('refused')
        shutil.rmtree(d)
    return refused


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    d = tmp_path_factory.mktemp('damage')
    cli.cfg_train('digits', str(d/'run'), steps=4, every=2)
    return d


def test_weights(run, tmp_path):
    assert damaged(run, ['run/ema.safetensors'], lambda d: state(runs.Run(d/'run').model()), tmp_path) > 0


def test_a_checkpoint(run, tmp_path):
    d = tmp_path/'run'
    shutil.copytree(run, d)
    for n in ('ema', 'model'): (d/'run'/f'{n}.safetensors').unlink()
    def ask(d):
        cli.cfg_train('digits', str(d/'run'), steps=4, every=2)
        return state(runs.Run(d/'run').model())
    assert damaged(d, ['run/last.ckpt'], ask, tmp_path, each=6) > 0


def test_samples_that_are_judged(run, tmp_path):
    d = tmp_path/'samples'
    d.mkdir()
    cli.cfg_sample(str(run/'run'), n=60, n_steps=2, out=str(d/'s.npz'))
    assert damaged(d, ['s.npz'], lambda d: f"{cli.cfg_evaluate(str(d/'s.npz'), data='digits')['fid']:.9f}", tmp_path, each=4) > 0


def test_the_weights_of_a_judge(tmp_path, monkeypatch):
    "They are made again, the same"
    d = tmp_path/'judges'
    def ask(d):
        os.environ['CFG_EDU_CACHE'] = str(d)
        return state(judges.DigitsJudge())
    monkeypatch.setenv('CFG_EDU_CACHE', str(d))
    monkeypatch.setattr(judges.DigitsJudge, 'recipe', {**judges.DigitsJudge.recipe, 'n_epochs': 2})
    ask(d)
    assert damaged(d, [str(p.relative_to(d)) for p in d.rglob('*.safetensors')], ask, tmp_path, each=2) == 0


def test_statistics(tmp_path):
    d = tmp_path/'statistics'
    d.mkdir()
    x = np.random.default_rng(0).normal(size=(90, 64))
    np.savez(d/'reference.npz', mu=x.mean(0), sigma=np.cov(x.T))
    def ask(d):
        ref = metrics.real_stats(d/'reference.npz', 'digits')
        return bits(ref.mu, ref.cov)
    assert damaged(d, ['reference.npz'], ask, tmp_path) > 0


def test_published_weights(tmp_path):
    d = tmp_path/'published'
    d.mkdir()
    torch.save(nets.unet_digits().state_dict(), d/'weights.pt')
    assert damaged(d, ['weights.pt'], lambda d: state(adm.load_weights(nets.unet_digits(), d/'weights.pt')), tmp_path) > 0


def tensors(dls): return bits(*(t for o in (dls.train_ds, dls.valid_ds) for t in o.tensors))


def test_mnist_s_archives(tmp_path):
    d, g = tmp_path/'mnist', np.random.default_rng(0)
    raw = d/'data'/'MNIST'/'raw'
    raw.mkdir(parents=True)
    for part, n in dict(train=200, t10k=50).items():
        for name, a in {'images-idx3': g.integers(0, 255, (n, 28, 28), np.uint8), 'labels-idx1': g.integers(0, 10, n, np.uint8)}.items():
            body = pack('>HBB', 0, 8, a.ndim) + pack(f'>{a.ndim}I', *a.shape) + a.tobytes()
            (raw/f'{part}-{name}-ubyte.gz').write_bytes(gzip.compress(body))
    sums = [(f.name, md5(f.read_bytes(), usedforsecurity=False).hexdigest()) for f in sorted(raw.iterdir())]
    def ask(d):
        kind = torchvision.datasets.MNIST
        with patch.object(kind, 'resources', sums), patch.object(kind, 'mirrors', ['http://127.0.0.1:9/']): return tensors(data.mnist_dls(d/'data', bs=20))
    assert damaged(d, [f'data/MNIST/raw/{n}' for n, _ in sums], ask, tmp_path) > 0


def test_cifar_10_s_archive(tmp_path):
    d, g = tmp_path/'cifar', np.random.default_rng(0)
    (d/'data').mkdir(parents=True)
    names, sums = [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch'], {}
    with tarfile.open(d/'data'/'cifar-10-python.tar.gz', 'w:gz') as tar:
        for name in [*names, 'batches.meta']:
            images = dict(data=g.integers(0, 255, (20, 3072), np.uint8), labels=g.integers(0, 10, 20).tolist())
            body = dumps(dict(label_names=list('abcdefghij')) if name == 'batches.meta' else images)
            info = tarfile.TarInfo(f'cifar-10-batches-py/{name}')
            info.size, sums[name] = len(body), md5(body, usedforsecurity=False).hexdigest()
            tar.addfile(info, BytesIO(body))
    whole = md5((d/'data'/'cifar-10-python.tar.gz').read_bytes(), usedforsecurity=False).hexdigest()
    known = dict(tgz_md5=whole, train_list=[[n, sums[n]] for n in names[:5]], test_list=[['test_batch', sums['test_batch']]],
                 meta=dict(filename='batches.meta', key='label_names', md5=sums['batches.meta']))
    def ask(d):
        with patch.multiple(torchvision.datasets.CIFAR10, url='http://127.0.0.1:9/', **known): return tensors(data.cifar10_dls(d/'data', bs=20))
    assert damaged(d, ['data/cifar-10-python.tar.gz'], ask, tmp_path, each=4) > 0
