"A judge who sees averages alone"
import torch
from cfg_edu.metrics import Judge


class Averages(Judge):
    "Of 4×4 pixels"
    name, layers = 'averages', dict(fid='features', isc='logits', prc='features')
    def see(self, u):
        f = torch.nn.functional.adaptive_avg_pool2d(u.float(), 4).flatten(1)
        return dict(features=f, logits=f[:,:10]/50)
