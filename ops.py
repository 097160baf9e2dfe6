"""The layers of the networks, as TensorFlow 1.x graph-mode functions.

Importing this module switches eager execution off: nothing else is needed to build a graph with these functions.
"""

import collections

from distributed.collectives import together
from tf1 import tf

# What attention enters, at each call, into the graph's collection of that name: the name of its scope, the map, gamma,
# the rows and columns of the positions that look and of those that are looked at, and whether it is for training.
AttentionLayer = collections.namedtuple('AttentionLayer', 'name map gamma queries keys is_training')


def conv2d(x, output_dim, k_h=5, k_w=5, d_h=2, d_w=2, stddev=0.02, name='conv2d', sn=None):
    """Convolution of x [B, H, W, C] with SAME padding -> [B, ceil(H/d_h), ceil(W/d_w), output_dim].

    k_h, k_w: size of the kernel; d_h, d_w: strides; stddev: of the initial weights, None for Xavier-uniform ones; sn:
    as in sigma_of. Variables: w [k_h, k_w, C, output_dim], biases [output_dim].
    """
    channels = x.shape.as_list()[-1]
    with tf.variable_scope(name):
        w = tf.get_variable('w', [k_h, k_w, channels, output_dim],
                            initializer=initializer(stddev, tf.truncated_normal_initializer))
        biases = tf.get_variable('biases', [output_dim], initializer=tf.zeros_initializer())
        w = normalized(w, sn)
        return tf.nn.bias_add(tf.nn.conv2d(x, w, strides=[1, d_h, d_w, 1], padding='SAME'), biases)


def initializer(stddev, normal):
    """Normal initial values of that deviation; with None, Xavier-uniform ones (Glorot and Bengio 2010, equation 16)."""
    return tf.glorot_uniform_initializer() if stddev is None else normal(stddev=stddev)


def deconv2d(x, output_shape, k_h=5, k_w=5, d_h=2, d_w=2, stddev=0.02, name='deconv2d', sn=None):
    """Transposed convolution of x [B, H, W, C] with SAME padding -> output_shape, a list [B, H*d_h, W*d_w, C'].

    output_shape[0] may be a tensor, for a batch size that the graph does not know. k_h, k_w: size of the kernel;
    d_h, d_w: strides; sn: as in sigma_of. Variables: w [k_h, k_w, C', C], biases [C'].
    """
    with tf.variable_scope(name):
        w = tf.get_variable('w', [k_h, k_w, output_shape[-1], x.shape.as_list()[-1]],
                            initializer=tf.random_normal_initializer(stddev=stddev))
        biases = tf.get_variable('biases', [output_shape[-1]], initializer=tf.zeros_initializer())
        w = normalized(w, sn, columns=2)
        y = tf.nn.conv2d_transpose(x, w, output_shape=tf.stack(output_shape), strides=[1, d_h, d_w, 1], padding='SAME')
        return tf.nn.bias_add(y, biases)


def matmul(x, matrix):
    """Matrix product of x [B, D] and a variable [D, E] -> [B, E]; on several cores its gradient is faster than
    tf.matmul's, and over several workers it is sent as the rows that it is made of, where these are less.
    """
    @tf.custom_gradient
    def product(x, w):
        def gradient(dy):  # [B, E] -> [B, D], [D, E]
            xs, dys = together[0].all_rows(x, dy, matrix) if together else (x, dy)
            return times_transpose(dy, w), tf.matmul(xs, dys, transpose_a=True)
        return tf.matmul(x, w), gradient
    return product(x, matrix)


def times_transpose(dy, w):
    """Matrix product of dy [B, E] and the transpose of w [D, E] -> [B, D]."""
    # A batch of one: oneDNN shares that among the cores, and the product of few rows with a transpose it does not.
    return tf.matmul(dy[None], w[None], transpose_b=True)[0]


def linear(x, output_size, scope='linear', stddev=0.02, bias_start=0.0, sn=None):
    """Fully connected layer on x [B, D] -> [B, output_size]; stddev: as in conv2d; sn: None, or as in sigma_of.

    Variables: Matrix [D, output_size], bias [output_size].
    """
    with tf.variable_scope(scope):
        matrix = tf.get_variable('Matrix', [x.shape.as_list()[-1], output_size],
                                 initializer=initializer(stddev, tf.random_normal_initializer))
        bias = tf.get_variable('bias', [output_size], initializer=tf.constant_initializer(bias_start))
        if sn is None:
            return tf.nn.bias_add(matmul(x, matrix), bias)
        sigma = sigma_of(matrix, sn)
        return tf.nn.bias_add(normalized_matmul(x, matrix, sigma.v, sigma.product), bias)


def embedding(labels, classes, size, scope='embedding', stddev=0.02, sn=None):
    """A learned vector for each label [B], from 0 to classes - 1 -> [B, size]; stddev, sn: as in linear.

    Variable: w [classes, size].
    """
    with tf.variable_scope(scope):
        w = tf.get_variable('w', [classes, size], initializer=initializer(stddev, tf.random_normal_initializer))
        return rows_of(normalized(w, sn), labels)


def projection(features, labels, classes, stddev=0.02, sn=None):
    """Product of features [B, D] with the embedding of labels [B], 'd_embedding' -> [B, 1]; stddev, sn: as in linear.

    Added to D's logit, it makes D one of images and their classes (Miyato and Koyama 2018, arXiv:1802.05637, eq. 3).
    """
    of_class = embedding(labels, classes, features.shape.as_list()[-1], 'd_embedding', stddev, sn=sn)  # [B, D]
    return tf.reduce_sum(features * of_class, 1, keepdims=True)


def rows_of(table, labels):
    """The rows of table [K, C] at labels [B] -> [B, C]."""
    # A product, because the gradient of a lookup by index is sparse, and Adam has another rule for these.
    return tf.matmul(tf.one_hot(labels, table.shape[0]), table)


# What sigma_of notes of a layer: the vectors of the power iteration, v [1, K] and product = v w [1, C], whose length is
# sigma; the variable u [1, C] that goes into it, and what u is to become.
Sigma = collections.namedtuple('Sigma', 'v product u new_u')


def sigma_of(w, sn, columns=-1):
    """The largest singular value of the weight w of the layer whose scope this is -> Sigma.

    w counts as a matrix with the output channels, its axis columns, as columns. It takes one step of power iteration
    (Miyato et al. 2018, arXiv:1802.05957, algorithm 1) from u, whose vectors are constant to the gradient.
    sn: {scope of a layer: Sigma}, which the first pass of an update fills and the others read. Who owns it moves all u
    once an update, after these passes, by move.
    Variable: u [1, C], not trained.
    """
    scope = tf.get_variable_scope().name
    if scope not in sn:
        size = w.shape.as_list()[columns]
        u = tf.get_variable('u', [1, size], initializer=tf.random_normal_initializer(), trainable=False)
        matrix = tf.reshape(w if columns == -1 else tf.transpose(w, [0, 1, 3, 2]), [-1, size])  # [K, C]
        v = tf.stop_gradient(unit(tf.transpose(exact_matmul(matrix, tf.transpose(u)))))  # [1, K]
        product = vector_matmul(v, matrix)  # [1, C]
        sn[scope] = Sigma(v, product, u, tf.stop_gradient(unit(product)))
    return sn[scope]


def exact_matmul(x, w):
    """Matrix product of x [B, D] and w [D, E] -> [B, E], in float32 whatever the precision."""
    # Of the operations that multiply matrices this one is left as it is; it is no slower for one row or column.
    return tf.squeeze(tf.raw_ops.BatchMatMulV3(x=tf.expand_dims(x, 0), y=tf.expand_dims(w, 0), Tout=tf.float32), 0)


@tf.custom_gradient
def vector_matmul(v, matrix):
    """Product of a constant v [1, K] and matrix [K, C] -> [1, C]."""
    def gradient(dy):
        return None, tf.transpose(v) * dy
    return exact_matmul(v, matrix), gradient


def normalized(w, sn, columns=-1):
    """A weight divided by sigma_of(w); just w if sn is None."""
    return w if sn is None else w / length(sigma_of(w, sn, columns).product)


@tf.custom_gradient
def normalized_matmul(x, w, v, product):
    """matmul of x [B, D] and w [D, E] / sigma -> [B, E]; v [1, D], product [1, E]: those of sigma_of(w).

    The same as a product with the normalized weight, but that a large weight is not written to memory once more,
    neither here nor in the gradient.
    """
    sigma = length(product)
    x = x / sigma
    y = tf.matmul(x, w)

    def gradient(dy):
        # dw = x^T dy - sum(dy y) v^T u / sigma, with u = product / sigma, as one product: v and u are a row more.
        more = -tf.reduce_sum(dy * y) / sigma ** 2 * product  # [1, E]
        dw = tf.matmul(tf.concat([x, v], 0), tf.concat([dy, more], 0), transpose_a=True)
        return times_transpose(dy, w) / sigma, dw, None, None
    return y, gradient


def length(x):
    """Euclidean norm of x, with a derivative at 0 too."""
    return tf.sqrt(tf.reduce_sum(x ** 2) + 1e-12)


def unit(x):
    """x at length 1."""
    return x / length(x)


def move(sn, operation):
    """The operation and, after it, a move of all u that sigma_of has noted in sn; None has none."""
    with tf.control_dependencies([operation]):
        return tf.group(operation, *(sigma.u.assign(sigma.new_u) for sigma in (sn or {}).values()))


def bn(x, is_training, scope, labels=None, classes=0, moments=None):
    """Batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167) of x [B, C] or [B, H, W, C] -> same shape.

    is_training (a Python bool): True normalizes each channel by the mean and the biased variance of the batch and, as
    a side effect of computing the output, moves moving_mean and moving_variance a tenth of the way to the batch's
    mean and unbiased variance; False normalizes by these two and leaves them alone.
    Variables, each [C]: beta, gamma, moving_mean, moving_variance. With labels [B], from 0 to classes - 1, beta and
    gamma are [classes, C], a row a class (Dumoulin et al. 2017, arXiv:1610.07629, equation 5). Where several workers
    share the batch, mean and variance are those of all of it: moments, if moments_of has taken them already.
    """
    channels = x.shape.as_list()[-1:]
    shape = channels if labels is None else [classes, *channels]
    with tf.variable_scope(scope):
        beta = tf.get_variable('beta', shape, initializer=tf.zeros_initializer())
        gamma = tf.get_variable('gamma', shape, initializer=tf.ones_initializer())
        mean = tf.get_variable('moving_mean', channels, initializer=tf.zeros_initializer(), trainable=False)
        variance = tf.get_variable('moving_variance', channels, initializer=tf.ones_initializer(), trainable=False)

        y = x if x.shape.ndims == 4 else x[:, None, None, :]  # [B, H, W, C]
        scale, offset = (gamma, beta) if labels is None else (tf.ones(channels), tf.zeros(channels))
        if is_training and together:
            moments = moments or moments_of(x)[0]
            y, new_mean, new_variance = norm_of_all_workers(y, scale, offset, mean, variance, moments)
        else:
            y, new_mean, new_variance = tf.nn.fused_batch_norm(
                y, scale, offset, mean, variance, epsilon=1e-5, is_training=is_training, exponential_avg_factor=0.1)
        if labels is not None:
            scale, offset = (tf.reshape(rows_of(table, labels), [-1, 1, 1, *channels]) for table in (gamma, beta))
            y = y * scale + offset
        if x.shape.ndims == 2:
            y = y[:, 0, 0, :]  # [B, C]
        if not is_training:
            return y
        with tf.control_dependencies([mean.assign(new_mean), variance.assign(new_variance)]):
            return tf.identity(y)


def moments_of(*tensors):
    """The means of tensors [..., C] and of their squares, over all workers, in one message -> [(mean, square)], [C]."""
    means = together[0].mean([tf.reduce_mean(y, list(range(x.shape.ndims - 1))) for x in tensors for y in (x, x ** 2)])
    return list(zip(means[::2], means[1::2], strict=True))


def norm_of_all_workers(x, scale, offset, mean, variance, moments):
    """What tf.nn.fused_batch_norm makes of the whole batch, of which x [B, H, W, C] is the slice of this worker."""
    found_mean, square = moments
    found_variance = tf.maximum(square - found_mean ** 2, 0.)  # rounding may take it below
    y = (x - found_mean) * (tf.rsqrt(found_variance + 1e-5) * scale) + offset
    count = tf.cast(together[0].size * tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    unbiased = found_variance * count / (count - 1)
    return y, mean + 0.1 * (found_mean - mean), variance + 0.1 * (unbiased - variance)


def lrelu(x, leak=0.2):
    """Leaky rectifier: x where x > 0, leak * x elsewhere; same shape as x."""
    return tf.nn.leaky_relu(x, leak)


def hw_flatten(x):
    """[B, H, W, C] -> [B, H*W, C]; position (i, j) becomes row i*W + j."""
    _, height, width, channels = x.shape.as_list()
    return tf.reshape(x, [-1, height * width, channels])


def attention(x, is_training=True, scope='attention', reuse=False, norm=True, sn=None):
    """Self-attention over the positions of x [B, H, W, C], C a multiple of 8 -> same shape.

    Zhang et al. 2018 (arXiv:1805.08318), equations 1 to 3, with 4x4 convolutions, batch norm and relu where the paper
    has 1x1 convolutions. is_training: as in bn; norm: whether there is batch norm; sn: None, or as in sigma_of.

    The attention map beta [B, N, N], N = H*W, is the tensor <scope>/attention_map:0. Its row j is a distribution over
    the N positions: where position j looks. The graph's collection 'attention' gets an AttentionLayer.
    Variables: those of f_conv, f_bn, g_conv, g_bn, h_conv, h_bn, and gamma [1].
    """
    channels = channels_of_attention(x)
    with tf.variable_scope(scope, reuse=reuse):
        # Keys and queries [B, H, W, C/8], values [B, H, W, C].
        found = [conv2d(x, size, 4, 4, 1, 1, name=f'{name}_conv', sn=sn)
                 for name, size in (('f', channels // 8), ('g', channels // 8), ('h', channels))]
        if norm:
            shared = moments_of(*found) if is_training and together else [None] * 3
            found = [bn(y, is_training, f'{name}_bn', moments=moments)
                     for y, name, moments in zip(found, 'fgh', shared, strict=True)]
        f, g, h = map(tf.nn.relu, found)
        gamma = tf.get_variable('gamma', [1], initializer=tf.zeros_initializer())
        return gamma * attend(f, g, h, gamma, is_training) + x


def paper_attention(x, is_training=True, scope='attention', reuse=False, norm=True, sn=None):
    """Self-attention as in the code of Zhang et al. 2018, but its convolutions have biases; arguments as in attention.

    The convolutions are 1x1, without batch norm; keys and values are pooled, so that the map beta is [B, N, M] with
    M = ceil(H/2) * ceil(W/2): a key stands for 2 x 2 positions.
    Variables: those of f_conv, g_conv, h_conv, attn_conv, and gamma [1].
    """
    channels = channels_of_attention(x)
    with tf.variable_scope(scope, reuse=reuse):
        f = max_pool(conv2d(x, channels // 8, 1, 1, 1, 1, name='f_conv', sn=sn))  # keys [B, H/2, W/2, C/8]
        g = conv2d(x, channels // 8, 1, 1, 1, 1, name='g_conv', sn=sn)  # queries [B, H, W, C/8]
        h = max_pool(conv2d(x, channels // 2, 1, 1, 1, 1, name='h_conv', sn=sn))  # values [B, H/2, W/2, C/2]
        gamma = tf.get_variable('gamma', [1], initializer=tf.zeros_initializer())
        o = attend(f, g, h, gamma, is_training)  # [B, H, W, C/2]
        return gamma * conv2d(o, channels, 1, 1, 1, 1, name='attn_conv', sn=sn) + x


def channels_of_attention(x):
    """The channels of x [B, H, W, C]. Raises ValueError where they are no multiple of 8."""
    channels = x.shape.as_list()[-1]
    if channels % 8:
        raise ValueError(f'attention takes channels that are a multiple of 8, not {channels}')
    return channels


def attend(f, g, h, gamma, is_training):
    """Values h at the keys f, weighed by how much each query g matches these -> [B, H, W, C], H and W those of g.

    f [B, h, w, D], g [B, H, W, D], h [B, h, w, C]; gamma, is_training: for the AttentionLayer.
    """
    queries, keys = g.shape.as_list()[1:3], f.shape.as_list()[1:3]
    s = tf.matmul(hw_flatten(g), hw_flatten(f), transpose_b=True)  # [B, N, M]
    beta = tf.nn.softmax(s, name='attention_map')  # [B, N, M]
    tf.add_to_collection('attention', AttentionLayer(
        tf.get_variable_scope().name, beta, gamma, queries, keys, is_training))
    return tf.reshape(tf.matmul(beta, hw_flatten(h)), [-1, *queries, h.shape.as_list()[-1]])  # [B, H, W, C]


def upsample(x):
    """Each position of x [B, H, W, C] four times -> [B, 2H, 2W, C]."""
    _, height, width, _ = x.shape.as_list()
    return tf.image.resize_nearest_neighbor(x, [2 * height, 2 * width])


def avg_pool(x):
    """Mean of each 2 x 2 positions of x [B, H, W, C] -> [B, H/2, W/2, C]."""
    return tf.nn.avg_pool2d(x, 2, 2, 'VALID')


def max_pool(x):
    """Maximum of each 2 x 2 positions of x [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]."""
    return tf.nn.max_pool2d(x, 2, 2, 'SAME')


ATTENTIONS = {'article': attention, 'paper': paper_attention, 'none': lambda x, *args, **kwargs: x}


def attention_layers():
    """The AttentionLayer of each call of an attention layer in the graph, in their order."""
    return tf.get_collection('attention')


def gammas_of(layers):
    """The gammas of attention layers, AttentionLayer each -> {column of the history: scalar}, one a layer.

    The columns are g_gamma and d_gamma, and g_gamma_2 and so on where a network has several layers.
    """
    gammas = {}
    for name, gamma in {layer.name: layer.gamma for layer in layers}.items():
        number = 1 + sum(column[0] == name[0] for column in gammas)
        gammas[f'{name[0]}_gamma' + (f'_{number}' if number > 1 else '')] = gamma[0]
    return gammas
