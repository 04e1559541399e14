"Python starts with this where its folder is on PYTHONPATH: whatever but pip asks for an address beyond this machine is noted in the file $SOCKETS, and refused."
import os, socket

def guard(connect):
    def guarded(self, address, *args):
        if self.family == socket.AF_UNIX or address[0] in ('127.0.0.1', '::1', 'localhost', socket.gethostname()): return connect(self, address, *args)
        with open(os.environ['SOCKETS'], 'a') as f: f.write(f'{address}\n')
        raise OSError(f'no network in tests: {address}')
    return guarded

with open('/proc/self/cmdline') as f: pip = any(o.rsplit('/', 1)[-1].startswith('pip') for o in f.read().split('\0'))
if not pip:
    for name in ('connect', 'connect_ex'): setattr(socket.socket, name, guard(getattr(socket.socket, name)))
