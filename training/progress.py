"""The progress of training: a bar on a terminal, otherwise lines of text."""

import os
import sys
import time

from tqdm import tqdm

from training.callbacks import SCORES, Callback, epoch_and_index, is_recorded

# Fits in 80 columns and shows the remaining time of the whole run.
BAR = '{desc} {percentage:.0f}%|{bar}| {remaining} left, {rate_noinv_fmt}{postfix}'


class ProgressBar(Callback):
    """Show a progress bar on a terminal. Otherwise print a line of losses every --print_freq steps."""

    bar = None

    def start(self, model, step):
        self.start_time, self.start_step, self.text = time.time(), step, ''
        # Some terminals report a size of 0.
        is_terminal = sys.stdout.isatty() and all(os.get_terminal_size(sys.stdout.fileno()))
        self.bar = tqdm(initial=step, total=model.config.last_step, unit=' steps', bar_format=BAR, file=sys.stdout,
                        dynamic_ncols=True, disable=not is_terminal)

    def on_step(self, model, step, values):
        config = model.config
        epoch, index = epoch_and_index(step, config.steps_per_epoch)
        if step == 1 or is_recorded(config, step):
            self.text = f'D {values["d_loss"]:.2f} G {values["g_loss"]:.2f}'
            gammas = [f'{values[name]:.2f}' for name in ('g_gamma', 'd_gamma') if name in values]
            if gammas:
                self.text += f' gamma {" ".join(gammas)}'
            if self.bar.disable:
                seconds = time.time() - self.start_time
                rate = (step - self.start_step) / seconds
                remaining = tqdm.format_interval((config.last_step - step) / rate)
                print(f'Epoch: [{epoch:2d}] [{index:4d}/{config.steps_per_epoch:4d}] time: {seconds:.4f}, '
                      f'd_loss: {values["d_loss"]:.4f}, g_loss: {values["g_loss"]:.4f}, {rate:.2f} steps/s, '
                      f'{remaining} left', flush=True)
        if 'frechet_distance' in values:
            self.bar.write(f'Step {step}: ' + ', '.join(
                f'{label} {values[name]:.3f}' for name, label in SCORES.items() if name in values))
        self.bar.set_description_str(f'Epoch {epoch + 1}/{config.epoch}', refresh=False)
        self.bar.set_postfix_str(self.text, refresh=False)
        self.bar.update()

    def show(self, activity):
        """Show the activity of a callback until the next step."""
        self.bar.set_postfix_str(activity)

    def close(self):
        if self.bar is not None:
            self.show(self.text)
            self.bar.close()
