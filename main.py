"""Train a Self-Attention GAN and draw samples from it: python main.py --help"""

import argparse
import contextlib
import os
import sys


def parse_args():
    """Returns (every option with its value, those the user typed: {option: value})."""
    parser = argparse.ArgumentParser(description='Self-Attention GAN on MNIST',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.error = fail
    add = parser.add_argument
    add('--phase', default='train', choices=['train', 'test', 'eval'],
        help='train, sample from what was trained, or score it')
    add('--dataset', dest='dataset_name', default='auto', choices=['auto', 'mnist', 'fashion-mnist', 'digits'],
        help='auto is mnist where it is at hand or can be downloaded, else the built-in digits')
    add('--epoch', type=whole(1), default=20, help='epochs to train')
    add('--iteration', type=whole(0), default=0, help='steps an epoch; 0 is a whole pass through the data')
    add('--batch_size', type=whole(1), default=64, help='images a step')
    add('--z_dim', type=whole(1), default=62, help='length of the noise vector')
    add('--g_lr', type=real(1e-9, 1), default=0.001, help="the generator's learning rate")
    add('--d_lr', type=real(1e-9, 1), default=0.0002, help="the discriminator's learning rate")
    add('--beta1', type=real(0, 1), default=0.5, help="Adam's decay of the mean gradient")
    add('--lr_decay', default='none', choices=['none', 'linear'],
        help='linear lets both learning rates fall to zero over the second half of the steps')
    add('--ema', type=real(0, 1), default=0.999, help="decay of the average of the generator's weights; 0 is none")
    add('--weights', default='ema', choices=['ema', 'raw'],
        help='what to sample with: the moving average of the weights, or the weights as trained')
    add('--sample_num', type=whole(1), default=64, help='images in a grid')
    add('--test_num', type=whole(1), default=10, help='grids that --phase test writes')
    add('--print_freq', type=whole(1), default=50, help='steps between two lines of losses')
    add('--sample_freq', type=whole(1), default=300, help='steps between two grids')
    add('--save_freq', type=whole(1), default=1000, help='steps between two checkpoints')
    add('--precision', default='float32', choices=['float32', 'bfloat16'], help='number format of the heavy operations')
    add('--attention', type=truth, default=True, metavar='{true,false}', help='whether the networks have the layer')
    add('--attention_of', default='both', choices=['generator', 'discriminator', 'both'],
        help='whose attention maps --phase test draws')
    add('--export', type=whole(0), default=0, help='single images that --phase test writes')
    add('--checkpoint', type=checkpoint, default='latest', metavar='{latest,best,STEP}',
        help='what --phase test and eval restore; best is what --eval_freq kept')
    add('--eval_num', type=whole(1), default=10000, help='images that --phase eval scores')
    add('--eval_freq', type=whole(0), default=0, help='epochs between two scores while training; 0 is never')
    add('--data_dir', default='data', help='folder of the data sets')
    add('--checkpoint_dir', default='checkpoint', help='folder of the checkpoints')
    add('--result_dir', default='results', help='folder of the grids')
    add('--log_dir', default='logs', help='folder of the TensorBoard summaries')
    add('--seed', type=whole(0, 2**31 - 1), default=0, help='seed of all random numbers')
    args = vars(parser.parse_args())
    typed = vars(parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(args))))
    return args, {option: value for option, value in typed.items() if value is not None}


def whole(low, high=1000000):
    """Type of an option that is a whole number from low to high."""
    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {low} to {high}')
        return int(text)
    return parse


def real(low, high):
    """Type of an option that is a number from low up and below high."""
    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = high
        if not low <= value < high:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number from {low} up and below {high}')
        return value
    return parse


def truth(text):
    """Type of an option that is true or false."""
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r} is neither true nor false')
    return text.lower() == 'true'


def checkpoint(text):
    """Type of the option that names a checkpoint."""
    if text not in ('latest', 'best') and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is neither latest, nor best, nor a step')
    return int(text) if text.isdecimal() else text


def fail(message):
    print(f'main.py: {message}', file=sys.stderr)
    sys.exit(2)


def import_tensorflow():
    """Import TensorFlow with its start-up chatter kept off the screen."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')  # else it imports Keras, which nothing here uses
    # Its libraries write to the file descriptor before they read any setting.
    screen = os.dup(2)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow.compat.v1 as tf
    finally:
        os.dup2(screen, 2)
    tf.logging.set_verbosity(tf.logging.ERROR)
    return tf


def train(args, typed):
    from utils import find_dataset, show_all_variables
    args['dataset_name'], why = find_dataset(args['dataset_name'], args['data_dir'])
    print(why, flush=True)
    del args['checkpoint']
    tf = import_tensorflow()
    from SAGAN import SAGAN, session_config
    with tf.Session(config=session_config(args['precision'])) as sess:
        model = SAGAN(sess, **args)
        model.build_model()
        show_all_variables()
        model.train()
    print(why)


def test(args, typed):
    with restored_run(args, typed) as model:
        model.test(args['seed'], args['checkpoint'])


def evaluate(args, typed):
    with restored_run(args, typed) as model:
        model.evaluate(args['seed'], args['checkpoint'])


@contextlib.contextmanager
def restored_run(args, typed):
    """The model of the run that the options choose, in a session; nothing of it needs to be typed again."""
    from utils import find_run
    choosing = ('dataset_name', 'batch_size', 'z_dim', 'g_lr', 'd_lr', 'beta1', 'lr_decay', 'precision', 'attention',
                'seed')
    sampling = 'result_dir', 'data_dir', 'sample_num', 'test_num', 'attention_of', 'export', 'eval_num', 'weights'
    wanted = {option: typed[option] for option in choosing if typed.get(option, 'auto') != 'auto'}
    run = find_run(args['checkpoint_dir'], wanted)
    settings = {option: run.get(option, default) for option, default in args.items() if option != 'checkpoint'}
    settings.update({option: typed[option] for option in sampling if option in typed},
                    checkpoint_dir=args['checkpoint_dir'], ema=args['ema'])  # whether there are averages, load sees
    tf = import_tensorflow()
    from SAGAN import SAGAN, session_config
    with tf.Session(config=session_config(settings['precision'])) as sess:
        model = SAGAN(sess, **settings)
        print(f'Run: {model.model_dir}')
        model.build_model()
        yield model


def main():
    args, typed = parse_args()
    from utils import UserError
    phase = {'train': train, 'test': test, 'eval': evaluate}[args.pop('phase')]
    try:
        phase(args, typed)
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(f'{error.filename or "a file"}: {error.strerror or error}; free some space or choose another folder')
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
