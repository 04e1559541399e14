"Python starts with this where its folder is on PYTHONPATH: whatever but pip asks for an address beyond this machine is noted in the file $SOCKETS, and refused."
import os, socket, sys, traceback

def guard(connect):
    def guarded(self, address, *args):
        if self.family == socket.AF_UNIX or address[0] in ('127.0.0.1', '::1', 'localhost', socket.gethostname()): return connect(self, address, *args)
        with open(os.environ['SOCKETS'], 'a') as f: f.write(f"{address} asked by {' '.join(sys.argv)[:80]}: {' < '.join(o.filename.split('site-packages/')[-1] for o in traceback.extract_stack()[-8:-1])}\n")
        raise OSError(f'no network in tests: {address}')
    return guarded

with open('/proc/self/cmdline') as f: pip = any('pip' in o.split('/') or o.rsplit('/', 1)[-1].startswith('pip') for o in f.read().split('\0'))    # the installer, and what it starts
if not pip:
    for name in ('connect', 'connect_ex'): setattr(socket.socket, name, guard(getattr(socket.socket, name)))
