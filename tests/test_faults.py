"Training, sampling, sweeping and preparing, killed at random moments or met by a fault: the end is as if nothing had happened (Linux)."
import os, random, resource, signal, sys, time
from functools import partial
from pathlib import Path
import pytest
from apart import end, left, pictures, same, start, whole
from cfg_edu import cli

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='forks and kills')
train = lambda o: cli.cfg_train('digits', str(o), steps=30, every=6)


@pytest.fixture(scope='module')
def top(tmp_path_factory):
    "A folder with a trained run and some pictures"
    top = tmp_path_factory.mktemp('faults')
    pictures(top/'pictures', 240)
    assert end(start(lambda: cli.cfg_train('digits', str(top/'trained'), steps=10, every=5))) == 0
    return top


@pytest.fixture(scope='module')
def jobs(top):
    "What is killed: name → function of the folder it writes to, each with what it makes undisturbed in `top`/name, and the seconds that takes"
    fs = dict(train=train, sample=lambda o: cli.cfg_sample(str(top/'trained'), n=100, bs=10, n_steps=6, out=str(o/'s.npz')),
              sweep=lambda o: cli.cfg_tradeoff('digits', str(o), steps=10, ws='0,1', n=100, n_steps=4),
              prepare=lambda o: cli.cfg_prepare(str(top/'pictures'), str(o), 32, 2))
    return Clean(top, fs)


class Clean:
    "Runs each job once undisturbed, when it is first asked for"
    def __init__(self, top, fs): self.top, self.fs, self.took = top, fs, {}
    def __getitem__(self, name):
        if name not in self.took:
            t0 = time.perf_counter()
            assert end(start(lambda: self.fs[name](self.top/name))) == 0
            self.took[name] = time.perf_counter()-t0
        return self.fs[name], self.top/name, self.took[name]


def kill(job, jobs, folder, kills, seed=0):
    "Kills `job` so many times at random moments, every second time on a slow disk; then lets it end"
    rng, (f, clean, took), done, tries = random.Random(seed), jobs[job], 0, 0
    while done < kills and tries < 20*kills:
        tries += 1
        pid = start(lambda: f(folder), slow=done%2)
        time.sleep(rng.uniform(.02, 1.)*took*rng.choice((.2, 1.)))
        os.kill(pid, signal.SIGKILL)
        code = end(pid)
        assert code != 1, f'the rerun after {done} kills fails'
        if code == 0:                                       # it was faster: start anew
            for p in sorted(folder.rglob('*'), reverse=True): p.unlink() if p.is_file() else p.rmdir()
            continue
        done += 1
        if folder.exists(): whole(folder)
    assert done == kills
    assert end(start(lambda: f(folder))) == 0
    assert same(clean, folder) == [] and left(folder) == []


@pytest.mark.parametrize('job', ['train', 'sample', 'sweep', 'prepare'])
def test_two_kills(jobs, tmp_path, job): kill(job, jobs, tmp_path/'out', 2)


@pytest.mark.slow
@pytest.mark.parametrize('job', ['train', 'sample', 'sweep', 'prepare'])
def test_twenty_kills(jobs, tmp_path, job): kill(job, jobs, tmp_path/'out', 20, seed=1)


def outcome(f, note, before=lambda: None):
    "Starts `f` after `before`; what it says in the end is written to the file `note`"
    def run():
        before()
        try:
            f()
            text = 'done'
        except (ValueError, OSError, FloatingPointError) as e: text = f'refused: {e}'
        except BaseException as e: text = f'{type(e).__name__}: {e}'
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        note.write_text(text)
    return start(run)


def ended(pid, note):
    end(pid)
    return note.read_text() if note.exists() else 'died'


def full(size):
    "From now on no file may be larger than `size` bytes: to whoever writes, a full disk"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize('job, size', [('train', 200_000), ('sample', 2000), ('prepare', 300_000)])
def test_a_full_disk(jobs, tmp_path, job, size):
    (f, clean, _), out, note = jobs[job], tmp_path/'out', tmp_path/'note'
    said = ended(outcome(lambda: f(out), note, partial(full, size)), note)
    assert said.startswith('refused') and ('no room is left' in said or 'for want of space' in said), said
    if out.exists(): whole(out)
    assert ended(outcome(lambda: f(out), note), note) == 'done'
    assert same(clean, out) == []


@pytest.mark.skipif(os.getuid() != 0, reason='another user is needed, for whom the folder is locked')
def test_a_folder_that_may_not_be_written_to(tmp_path):
    out, note = tmp_path/'out', tmp_path/'note'
    out.mkdir(mode=0o555)
    for p in (tmp_path, *tmp_path.parents):
        if p != Path('/'): os.chmod(p, p.stat().st_mode | 0o111)
    note.touch()
    os.chmod(note, 0o666)
    small = lambda: cli.cfg_train('moons', str(out), steps=2, every=1, bs=8)
    said = ended(outcome(small, note, lambda: os.setuid(65534)), note)
    assert said.startswith('refused') and not any(out.iterdir()), said


@pytest.mark.parametrize('job', ['train', 'sweep'])
def test_twice_at_once_in_one_folder(jobs, tmp_path, job):
    (f, clean, _), out = jobs[job], tmp_path/'out'
    notes = [tmp_path/'first', tmp_path/'second']
    first = outcome(lambda: f(out), notes[0])
    while not list(out.glob('.lock*')): time.sleep(.01)
    said = ended(outcome(lambda: f(out), notes[1]), notes[1])
    assert said.startswith('refused') and 'another process' in said, said
    assert ended(first, notes[0]) == 'done' and same(clean, out) == []


def test_a_process_that_reads_pictures_is_killed(tmp_path):
    many, out, note = pictures(tmp_path/'many', 4000), tmp_path/'out', tmp_path/'note'
    prepare = lambda: cli.cfg_prepare(str(many), str(out), 32, 2)
    pid = outcome(prepare, note)
    def children():
        return [int(o) for p in Path(f'/proc/{pid}/task').iterdir() for o in (p/'children').read_text().split()]
    while not (found := children()): time.sleep(.01)
    time.sleep(.3)
    os.kill(found[0], signal.SIGKILL)
    said = ended(pid, note)
    assert said.startswith('refused') and 'Traceback' not in said, said
    assert ended(outcome(prepare, note), note) == 'done'


def test_ctrl_c(jobs, tmp_path):
    (f, clean, _), out, note = jobs['train'], tmp_path/'out', tmp_path/'note'
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)       # a shell's background ignores it
    pid = outcome(lambda: f(out), note, heard)
    while not (out/'last.ckpt').exists(): time.sleep(.02)
    os.kill(pid, signal.SIGINT)
    said = ended(pid, note)
    assert said.startswith('KeyboardInterrupt'), said
    assert ended(outcome(lambda: f(out), note), note) == 'done' and same(clean, out) == []
