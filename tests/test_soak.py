"Long runs: memory, open files, threads and child processes do not grow (Linux; minutes, `pytest -m slow tests/test_soak.py`)."
import gc, sys
from pathlib import Path
import pytest, torch
from fastai.callback.core import Callback
from cfg_edu.data import data_dls, digits_dls
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG
from cfg_edu.mixture import ring
from cfg_edu.nets import unet_digits
from cfg_edu.runs import Checkpoint  # noqa: F401 (it brings `fit_resumable`)
from cfg_edu.sampling import ancestral, sample
from cfg_edu.training import diffusion_learner

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')]


class Watch:
    "Notes what the process holds"
    def __init__(self): self.rows = []
    def __call__(self, done):
        gc.collect()
        status = dict(l.split(':', 1) for l in Path('/proc/self/status').read_text().splitlines())
        children = sum(len((p/'children').read_text().split()) for p in Path('/proc/self/task').iterdir())
        files = len(list(Path('/proc/self/fd').iterdir()))
        self.rows.append((done, int(status['VmRSS'].split()[0])/1024, files, int(status['Threads']), children))
        print('{:8} done, {:7.1f} MB, {} files, {} threads, {} children'.format(*self.rows[-1]), flush=True)
    def flat(self, mb=20.):
        "Does nothing grow, after the first third?"
        first, *_, last = self.rows[len(self.rows)//3:]
        return last[1] - first[1] < mb and last[2:] == first[2:]


def test_five_thousand_steps(tmp_path):
    watch = Watch()
    class Look(Callback):
        order = 200
        def after_epoch(self): watch((self.epoch+1)*500)
    dls = digits_dls()
    dls.train.n = 500*128
    learn = diffusion_learner(dls, unet_digits(), decay=.995, lr=4e-3, cbs=Look())
    learn.logger = lambda row: None
    with learn.no_bar(): learn.fit_resumable(10, tmp_path/'last.ckpt')
    assert watch.flat()


def test_fifty_thousand_samples():
    watch, model = Watch(), CFG(Denoiser(unet_digits()).eval(), 1.)
    for i in range(10):
        x = sample(model, (5000, 1, 8, 8), torch.arange(5000)%10, seed=i*5000, bs=64, clip=(-1, 1))
        assert x.isfinite().all()
        del x
        watch((i+1)*5000)
    assert watch.flat()


def test_a_thousand_classes():
    dls = data_dls(torch.rand(2000, 1, 8, 8)*2 - 1, torch.arange(2000)%1000, range(1000), 100)
    learn = diffusion_learner(dls, unet_digits(1000))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert sample(CFG(learn.ema.avg, 1.), (1000, 1, 8, 8), torch.arange(1000), clip=(-1, 1)).isfinite().all()


def test_ten_thousand_calls():
    watch, m = Watch(), ring()
    for i in range(3):
        x = sample(m, (500, 2), 1, ancestral(), 10_000)
        watch(10_000*(i+1))
    assert x.isfinite().all() and (m.classify(x, torch.full((500,), 20.)).argmax(1) != 1).float().mean() < .02
    assert watch.flat()
