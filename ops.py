"""The layers of the networks, as TensorFlow 1.x graph-mode functions.

Importing this module disables eager execution.
"""

from typing import NamedTuple

from tf1 import tf


class AttentionLayer(NamedTuple):
    """One call of an attention layer. Each call adds an AttentionLayer to the graph collection 'attention'."""
    scope: str  # name of the variable scope
    attention_map: tf.Tensor  # [B, N, M]
    gamma: tf.Variable  # [1]
    query_shape: list  # rows and columns of the N queries
    key_shape: list  # rows and columns of the M keys
    is_training: bool


##################################################################################
# Convolutions and matrix products
##################################################################################

def check_tensor(x):
    """Raise TypeError if the input of a layer is not a tensor, for example because it is an array."""
    if not tf.is_tensor(x):
        raise TypeError('the networks accept tensors, not arrays: call model.sample(z) for images, '
                        "model.attention_maps(images=images) for maps, or model.judge(images) for the discriminator's "
                        'output')


def initializer(stddev, normal):
    """Return normal(stddev=stddev), or the initializer of Glorot and Bengio 2010, eq. 16, if stddev is None."""
    return tf.glorot_uniform_initializer() if stddev is None else normal(stddev=stddev)


def conv2d(x, output_dim, k_h=5, k_w=5, d_h=2, d_w=2, stddev=0.02, name='conv2d', sn=False):
    """Convolve x [B, H, W, C] with SAME padding.

    Args:
        k_h, k_w: height and width of the kernel.
        d_h, d_w: strides.
        stddev: standard deviation of the initial weights. None selects Xavier-uniform weights.
        sn: whether to apply spectral normalization.

    Returns:
        [B, ceil(H/d_h), ceil(W/d_w), output_dim]. Variables: w [k_h, k_w, C, output_dim], biases [output_dim].
    """
    check_tensor(x)
    channels = x.shape.as_list()[-1]
    with tf.variable_scope(name):
        w = tf.get_variable('w', [k_h, k_w, channels, output_dim],
                            initializer=initializer(stddev, tf.truncated_normal_initializer))
        biases = tf.get_variable('biases', [output_dim], initializer=tf.zeros_initializer())
        if sn:
            w = spectral_norm(w)
        return tf.nn.bias_add(tf.nn.conv2d(x, w, strides=[1, d_h, d_w, 1], padding='SAME'), biases)


def deconv2d(x, output_shape, k_h=5, k_w=5, d_h=2, d_w=2, stddev=0.02, name='deconv2d', sn=False):
    """Apply a transposed convolution with SAME padding to x [B, H, W, C].

    Args:
        output_shape: [B, H*d_h, W*d_w, C']. B may be a tensor, if the batch size is unknown when the graph is built.
        k_h, k_w: height and width of the kernel.
        d_h, d_w: strides.
        stddev: standard deviation of the initial weights.
        sn: whether to apply spectral normalization.

    Returns:
        A tensor of shape output_shape. Variables: w [k_h, k_w, C', C], biases [C'].
    """
    with tf.variable_scope(name):
        w = tf.get_variable('w', [k_h, k_w, output_shape[-1], x.shape.as_list()[-1]],
                            initializer=tf.random_normal_initializer(stddev=stddev))
        biases = tf.get_variable('biases', [output_shape[-1]], initializer=tf.zeros_initializer())
        if sn:
            w = spectral_norm(w, axis=2)
        y = tf.nn.conv2d_transpose(x, w, output_shape=tf.stack(output_shape), strides=[1, d_h, d_w, 1], padding='SAME')
        return tf.nn.bias_add(y, biases)


def linear(x, output_size, scope='linear', stddev=0.02, bias_start=0.0, sn=False):
    """Apply a fully connected layer to x [B, D].

    Args:
        stddev: standard deviation of the initial weights. None selects Xavier-uniform weights.
        bias_start: initial value of the bias.
        sn: whether to apply spectral normalization.

    Returns:
        [B, output_size]. Variables: Matrix [D, output_size], bias [output_size].
    """
    check_tensor(x)
    with tf.variable_scope(scope):
        matrix = tf.get_variable('Matrix', [x.shape.as_list()[-1], output_size],
                                 initializer=initializer(stddev, tf.random_normal_initializer))
        bias = tf.get_variable('bias', [output_size], initializer=tf.constant_initializer(bias_start))
        y = spectral_norm_matmul(x, matrix) if sn else matmul(x, matrix)  # [B, output_size]
        return tf.nn.bias_add(y, bias)


def matmul(x, w):
    """Return x [B, D] @ w [D, E], with a gradient that uses all cores."""
    with tf.get_default_graph().gradient_override_map({'MatMul': 'MatMulOnAllCores'}):
        return tf.matmul(x, w)


@tf.RegisterGradient('MatMulOnAllCores')
def matmul_gradient(op, dy):
    """Return the gradients of x [B, D] @ w [D, E] with respect to x and w, given dy [B, E].

    Mathematically, they equal the gradients that TensorFlow defines.
    """
    x, w = op.inputs
    # oneDNN splits batched products across the cores, but not the product of a few rows with a transposed matrix.
    dx = tf.matmul(dy[None], w[None], transpose_b=True)[0]  # [B, D]
    return dx, tf.matmul(x, dy, transpose_a=True)


def embedding(labels, num_classes, size, scope='embedding', stddev=0.02, sn=False):
    """Return a learned vector for each label [B] in 0..num_classes-1.

    Args:
        size: length of a vector.
        stddev: standard deviation of the initial weights. None selects Xavier-uniform weights.
        sn: whether to apply spectral normalization.

    Returns:
        [B, size]. Variable: w [num_classes, size].
    """
    with tf.variable_scope(scope):
        w = tf.get_variable('w', [num_classes, size], initializer=initializer(stddev, tf.random_normal_initializer))
        if sn:
            w = spectral_norm(w)
        return lookup(w, labels)


def projection(features, labels, num_classes, stddev=0.02, sn=False):
    """Return the inner product [B, 1] of features [B, D] with an embedding of labels [B].

    Added to D's logit, it conditions D on the class (Miyato and Koyama 2018, arXiv:1802.05637, eq. 3).
    """
    class_vectors = embedding(labels, num_classes, features.shape.as_list()[-1], 'd_embedding', stddev, sn)  # [B, D]
    return tf.reduce_sum(features * class_vectors, 1, keepdims=True)


def lookup(table, labels):
    """Return the rows [B, C] of table [K, C] that labels [B] select."""
    # Not tf.gather: its gradient is sparse, and Adam treats sparse gradients differently.
    return tf.matmul(tf.one_hot(labels, table.shape[0]), table)


def check_labels(labels, num_classes):
    """Return labels [B] unchanged. Evaluating the result fails if a label is not in 0..num_classes-1.

    Without this check, lookup would silently return zeros. Unlike an assertion, this check survives the conversion of
    a model to other formats.
    """
    with tf.device('/cpu:0'):  # on a GPU, tf.gather returns 0 instead of failing
        return tf.gather(tf.range(num_classes), labels)


##################################################################################
# Normalization
##################################################################################

def spectral_norm(w, axis=-1):
    """Divide a weight by an estimate of its spectral norm (Miyato et al. 2018, arXiv:1802.05957, algorithm 1).

    The norm is the largest singular value of w as a matrix with one column per output channel. The estimate takes one
    step of power iteration from the variable u [1, C]. The gradient treats both singular vectors as constants. The next
    value of u is added to a graph collection, from which update_u takes it.

    Args:
        axis: the axis of the output channels: -1, or 2 for the weight of a transposed convolution.

    Returns:
        A tensor of the same shape as w. Variable, not trainable: u.
    """
    size = w.shape.as_list()[axis]
    matrix = tf.reshape(w if axis == -1 else tf.transpose(w, [0, 1, 3, 2]), [-1, size])  # [K, C]
    u, v = singular_vectors(matrix)
    return w / singular_value(u, matmul_float32(v, matrix))


def spectral_norm_matmul(x, w):
    """Return x [B, D] @ spectral_norm(w [D, E]), [B, E], without storing the normalized weight.

    Storing a second copy of a large weight, and differentiating the division, would make a step a third slower.
    Instead, v becomes one more row of x. One product then also computes v w, and its gradient includes that of the
    singular value.
    """
    u, v = singular_vectors(w)
    product = matmul(tf.concat([x, v], 0), w)  # [B + 1, E]
    return product[:-1] / singular_value(u, product[-1:])


def singular_vectors(matrix):
    """Return estimates of the singular vectors of a matrix [K, C]: the variable u [1, C], and v [1, K] computed from u.

    u belongs to the current variable scope. The gradient treats v as a constant.
    """
    u = tf.get_variable('u', [1, matrix.shape.as_list()[1]], initializer=tf.random_normal_initializer(),
                        trainable=False)
    v = tf.transpose(matmul_float32(matrix, tf.transpose(u)))  # [1, K]
    return u, tf.stop_gradient(l2_normalize(v))


def singular_value(u, product):
    """Return the estimate v w u' of the largest singular value, where u' is the next value of u.

    Add the pair (u, u') to a graph collection, from which update_u updates u.

    Args:
        product: v w, [1, C].
    """
    new_u = tf.stop_gradient(l2_normalize(product))  # [1, C]
    tf.add_to_collection('spectral_norm', (u, new_u))
    return tf.reduce_sum(product * new_u)


def matmul_float32(x, w):
    """Return the matrix product of x [B, D] and w [D, E], in float32 even if the session computes in bfloat16."""
    # TensorFlow does not convert this operation to bfloat16.
    return tf.raw_ops.BatchMatMulV3(x=x[None], y=w[None], Tout=tf.float32)[0]


def l2_normalize(x):
    """Return x divided by its Euclidean norm."""
    return x / tf.sqrt(tf.reduce_sum(x ** 2) + 1e-12)


def update_u(variables):
    """Return the operation that advances the power iteration of each u among these variables.

    If spectral_norm was called several times with the same u, the last call supplies its new value. Run the operation
    once per update, after everything that reads u.
    """
    names = {variable.name for variable in variables}
    new_values = {u.name: (u, new_u) for u, new_u in tf.get_collection('spectral_norm') if u.name in names}
    return tf.group(*(u.assign(new_u) for u, new_u in new_values.values()))


def bn(x, is_training, scope, labels=None, num_classes=0, sync=None, batches=1):
    """Apply batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167) to x [B, C] or [B, H, W, C].

    Args:
        is_training: a Python bool. If True, each channel is normalized by the mean and the biased variance of the
            batch. Computing the output also moves moving_mean and moving_variance a tenth of the way to the batch's
            mean and unbiased variance. If False, the moving statistics normalize each channel and do not change.
        labels: [B] in 0..num_classes-1, for one beta and gamma per class (Dumoulin et al. 2017, arXiv:1610.07629,
            eq. 5).
        sync: the Cluster whose workers share the batch, or None. The mean and variance are those of the whole batch.
        batches: the number of batches of equal size that are concatenated in x. In training, each batch is normalized
            by its own statistics and updates the moving statistics.

    Returns:
        A tensor of the same shape. Variables: beta and gamma, [C] or [num_classes, C]; moving_mean and
        moving_variance, [C].
    """
    channels = x.shape.as_list()[-1:]
    shape = channels if labels is None else [num_classes, *channels]
    with tf.variable_scope(scope):
        beta = tf.get_variable('beta', shape, initializer=tf.zeros_initializer())
        gamma = tf.get_variable('gamma', shape, initializer=tf.ones_initializer())
        mean = tf.get_variable('moving_mean', channels, initializer=tf.zeros_initializer(), trainable=False)
        variance = tf.get_variable('moving_variance', channels, initializer=tf.ones_initializer(), trainable=False)

        y = x if x.shape.ndims == 4 else x[:, None, None, :]  # [B, H, W, C]
        scale, offset = (gamma, beta) if labels is None else (tf.ones(channels), tf.zeros(channels))
        new_mean, new_variance = mean, variance
        normalized = []
        for part in tf.split(y, batches) if batches > 1 else [y]:
            if is_training and sync is not None and sync.size > 1:
                part, new_mean, new_variance = sync_batch_norm(part, scale, offset, new_mean, new_variance, sync)
            else:
                part, new_mean, new_variance = tf.nn.fused_batch_norm(
                    part, scale, offset, new_mean, new_variance, epsilon=1e-5, is_training=is_training,
                    exponential_avg_factor=0.1)
            normalized.append(part)
        y = tf.concat(normalized, 0)  # [B, H, W, C]
        if labels is not None:
            scale, offset = (tf.reshape(lookup(table, labels), [-1, 1, 1, *channels]) for table in (gamma, beta))
            y = y * scale + offset
        if x.shape.ndims == 2:
            y = y[:, 0, 0, :]  # [B, C]
        if not is_training:
            return y
        with tf.control_dependencies([mean.assign(new_mean), variance.assign(new_variance)]):
            return tf.identity(y)


def sync_batch_norm(x, scale, offset, moving_mean, moving_variance, sync):
    """Compute tf.nn.fused_batch_norm over the shards of all workers. x [B, H, W, C] is the shard of this worker."""
    mean, mean_of_squares = sync.all_reduce([tf.reduce_mean(x, [0, 1, 2]), tf.reduce_mean(x ** 2, [0, 1, 2])])  # [C]
    variance = tf.maximum(mean_of_squares - mean ** 2, 0.)  # rounding can make the difference negative
    y = (x - mean) * (tf.rsqrt(variance + 1e-5) * scale) + offset
    count = tf.cast(sync.size * tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    unbiased = variance * count / (count - 1)
    return y, moving_mean + 0.1 * (mean - moving_mean), moving_variance + 0.1 * (unbiased - moving_variance)


##################################################################################
# Activations and resampling
##################################################################################

def lrelu(x, leak=0.2):
    """Return x where it is positive, and leak * x elsewhere."""
    return tf.nn.leaky_relu(x, leak)


def upsample(x):
    """Double the height and width of x [B, H, W, C] by repeating each position."""
    _, height, width, _ = x.shape.as_list()
    return tf.image.resize_nearest_neighbor(x, [2 * height, 2 * width])  # [B, 2H, 2W, C]


def avg_pool(x):
    """Average each 2 x 2 block of positions of x [B, H, W, C]."""
    return tf.nn.avg_pool2d(x, 2, 2, 'VALID')  # [B, H/2, W/2, C]


def max_pool(x):
    """Take the maximum of each 2 x 2 block of positions of x [B, H, W, C]."""
    return tf.nn.max_pool2d(x, 2, 2, 'SAME')  # [B, ceil(H/2), ceil(W/2), C]


def hw_flatten(x):
    """Reshape [B, H, W, C] to [B, H*W, C]. Position (i, j) becomes row i*W + j."""
    _, height, width, channels = x.shape.as_list()
    return tf.reshape(x, [-1, height * width, channels])


##################################################################################
# Attention
##################################################################################

def attention(x, is_training=True, scope='attention', reuse=False, norm=True, sn=False, sync=None, batches=1):
    """Apply self-attention over the positions of x [B, H, W, C]. C must be a multiple of 8.

    The layer follows Zhang et al. 2018 (arXiv:1805.08318), eq. 1 to 3, but has 4x4 convolutions, batch norm and relu
    instead of 1x1 convolutions.

    Args:
        is_training: whether batch norm uses the statistics of the batch and updates its moving statistics. A Python
            bool.
        norm: whether to use batch norm.
        sn: whether to apply spectral normalization.
        sync: the Cluster whose workers share the batch, or None. Batch norm uses the statistics of the whole batch.
        batches: the number of batches in x. Batch norm normalizes each by its own statistics.

    Returns:
        A tensor of the same shape. The attention map beta [B, N, N], N = H*W, is the tensor <scope>/attention_map:0.
        Its row j holds the attention weights of position j, which sum to 1.
        Variables: those of f_conv, f_bn, g_conv, g_bn, h_conv, h_bn, and gamma [1].
    """
    channels = check_channels(x)
    with tf.variable_scope(scope, reuse=reuse):
        f = conv2d(x, channels // 8, 4, 4, 1, 1, name='f_conv', sn=sn)  # keys [B, H, W, C/8]
        g = conv2d(x, channels // 8, 4, 4, 1, 1, name='g_conv', sn=sn)  # queries [B, H, W, C/8]
        h = conv2d(x, channels, 4, 4, 1, 1, name='h_conv', sn=sn)  # values [B, H, W, C]
        if norm:
            f = bn(f, is_training, 'f_bn', sync=sync, batches=batches)
            g = bn(g, is_training, 'g_bn', sync=sync, batches=batches)
            h = bn(h, is_training, 'h_bn', sync=sync, batches=batches)
        f, g, h = tf.nn.relu(f), tf.nn.relu(g), tf.nn.relu(h)
        gamma = tf.get_variable('gamma', [1], initializer=tf.zeros_initializer())
        return gamma * attend(f, g, h, gamma, is_training) + x


def paper_attention(x, is_training=True, scope='attention', reuse=False, norm=True, sn=False, sync=None, batches=1):
    """Apply self-attention as in the code of Zhang et al. 2018, but with biases. The arguments are those of attention.

    The convolutions are 1x1 and have no batch norm, so norm, sync and batches have no effect. Each key and value is
    pooled from 2 x 2 positions, so the attention map is [B, N, M] with M = ceil(H/2) * ceil(W/2).

    Returns:
        A tensor of the same shape. Variables: those of f_conv, g_conv, h_conv, attn_conv, and gamma [1].
    """
    channels = check_channels(x)
    with tf.variable_scope(scope, reuse=reuse):
        f = max_pool(conv2d(x, channels // 8, 1, 1, 1, 1, name='f_conv', sn=sn))  # keys [B, H/2, W/2, C/8]
        g = conv2d(x, channels // 8, 1, 1, 1, 1, name='g_conv', sn=sn)  # queries [B, H, W, C/8]
        h = max_pool(conv2d(x, channels // 2, 1, 1, 1, 1, name='h_conv', sn=sn))  # values [B, H/2, W/2, C/2]
        gamma = tf.get_variable('gamma', [1], initializer=tf.zeros_initializer())
        o = attend(f, g, h, gamma, is_training)  # [B, H, W, C/2]
        return gamma * conv2d(o, channels, 1, 1, 1, 1, name='attn_conv', sn=sn) + x


def no_attention(x, *args, **kwargs):
    """Return x unchanged, for --attention none."""
    return x


ATTENTIONS = {'article': attention, 'paper': paper_attention, 'none': no_attention}


def check_channels(x):
    """Return the number of channels of x [B, H, W, C]. Raise ValueError if it is not a multiple of 8."""
    channels = x.shape.as_list()[-1]
    if channels % 8:
        raise ValueError(f'attention requires a number of channels that is a multiple of 8, not {channels}')
    return channels


def attend(f, g, h, gamma, is_training):
    """Average the values for each query, weighted by the softmax of its products with the keys.

    Args:
        f: keys [B, H', W', D].
        g: queries [B, H, W, D].
        h: values [B, H', W', C].
        gamma, is_training: fields of the AttentionLayer that this call adds to the graph collection 'attention'.

    Returns:
        [B, H, W, C].
    """
    query_shape, key_shape = g.shape.as_list()[1:3], f.shape.as_list()[1:3]
    s = tf.matmul(hw_flatten(g), hw_flatten(f), transpose_b=True)  # [B, N, M]
    beta = tf.nn.softmax(s, name='attention_map')  # [B, N, M]
    tf.add_to_collection('attention', AttentionLayer(
        tf.get_variable_scope().name, beta, gamma, query_shape, key_shape, is_training))
    return tf.reshape(tf.matmul(beta, hw_flatten(h)), [-1, *query_shape, h.shape.as_list()[-1]])  # [B, H, W, C]


def attention_layers():
    """Return the AttentionLayers of the graph, in the order of the calls."""
    return tf.get_collection('attention')


def layers_by_column(layers):
    """Return AttentionLayers, one per variable scope, as {column of the history: AttentionLayer}.

    The columns hold the gammas: g_gamma and d_gamma. Further layers of a network have g_gamma_2, d_gamma_2 and so on.
    """
    columns = {}
    for scope, layer in {layer.scope: layer for layer in layers}.items():
        column = f'{scope[0]}_gamma'
        number = 1 + sum(name.startswith(column) for name in columns)
        columns[column if number == 1 else f'{column}_{number}'] = layer
    return columns


def gammas_of(layers):
    """Return the gammas of AttentionLayers, {column of the history: scalar}."""
    return {column: layer.gamma[0] for column, layer in layers_by_column(layers).items()}
