"""What training shows while it runs: a bar on a terminal, lines elsewhere."""

import os
import sys
import time

from tqdm import tqdm

# 80 columns hold it all, with the time left of the whole run.
BAR = '{desc} {percentage:.0f}%|{bar}| {remaining} left, {rate_noinv_fmt}{postfix}'


class Progress:
    """A record of records.py that is due at every step, to move the bar; every: numbers of steps between two lines."""

    word = ''

    def __init__(self, every, step, steps_an_epoch, last_step):
        self.every, self.steps_an_epoch, self.epochs = every, steps_an_epoch, last_step // steps_an_epoch
        self.start_time, self.said = time.time(), ''
        sized = sys.stdout.isatty() and all(os.get_terminal_size(sys.stdout.fileno()))  # some terminals say 0
        self.bar = tqdm(initial=step, total=last_step, unit=' steps', bar_format=BAR, file=sys.stdout,
                        dynamic_ncols=True, disable=not sized)

    def due(self, step):
        return True

    def write(self, step, values):
        epoch, index = place(step, self.steps_an_epoch)
        if step == 1 or any(steps and step % steps == 0 for steps in self.every):
            gammas = [f'{values[name]:.2f}' for name in ('g_gamma', 'd_gamma') if name in values]
            words = [f'D {values["d_loss"]:.2f}', f'G {values["g_loss"]:.2f}', *['gamma'][:len(gammas)], *gammas]
            self.said = ' '.join(words)
            if self.bar.disable:
                print(f'Epoch: [{epoch:2d}] [{index:4d}/{self.steps_an_epoch:4d}] time: '
                      f'{time.time() - self.start_time:.4f}, d_loss: {values["d_loss"]:.8f}, '
                      f'g_loss: {values["g_loss"]:.8f}', flush=True)
        if 'frechet_distance' in values:
            scores = {'frechet_distance': 'Fréchet distance', 'classifier_score': 'classifier score'}
            self.bar.write(f'Step {step}: ' + ', '.join(
                f'{label} {values[name]:.3f}' for name, label in scores.items() if name in values))
        self.bar.set_description_str(f'Epoch {epoch + 1}/{self.epochs}', refresh=False)
        self.bar.set_postfix_str(self.said, refresh=False)
        self.bar.update()

    def tell(self, word):
        """Show what goes on between two steps, until the next."""
        self.bar.set_postfix_str(word)

    def close(self):
        self.tell(self.said)
        self.bar.close()


def place(step, steps_an_epoch):
    """Where a step stands, the first being 1 -> (epoch from 0, index in it from 1)."""
    epoch, index = divmod(step - 1, steps_an_epoch)
    return epoch, index + 1
