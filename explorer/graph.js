// Runs the networks of the playground in a Web Worker. playground.py writes the nodes in the order of computation.
// The batch size is 1. A value is a Float32Array in row-major order. An operation writes its result into out.
'use strict';

const PATCHES = 64;  // image patches that a convolution multiplies at once

const OPERATIONS = {
  Add: binary((a, b) => a + b),
  Subtract: binary((a, b) => a - b),
  Multiply: binary((a, b) => a * b),
  Divide: binary((a, b) => a / b),
  Power: binary((a, b) => Math.pow(a, b)),
  Maximum: binary((a, b) => Math.max(a, b)),
  Minimum: binary((a, b) => Math.min(a, b)),

  Negate: unary(x => -x),
  Absolute: unary(x => Math.abs(x)),
  Square: unary(x => x * x),
  Sqrt: unary(x => Math.sqrt(x)),
  Rsqrt: unary(x => 1 / Math.sqrt(x)),
  Exp: unary(x => Math.exp(x)),
  Log: unary(x => Math.log(x)),
  Relu: unary(x => Math.max(x, 0)),
  LeakyRelu: unary((x, {alpha}) => x > 0 ? x : alpha * x),
  Sigmoid: unary(x => 1 / (1 + Math.exp(-x))),
  Tanh: unary(x => Math.tanh(x)),
  Softplus: unary(x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))),

  MatMul, Conv, ConvTranspose, Softmax, View, Concat, Gather, OneHot,
  Sum: reduce((total, x) => total + x),
  Max: reduce((largest, x) => Math.max(largest, x)),
  AveragePool: pool((total, x) => total + x, (total, count) => total / count),
  MaxPool: pool((largest, x) => Math.max(largest, x), largest => largest),
};

// Elementwise operations

function unary(compute) {
  return (node, out, x) => {
    for (let i = 0; i < out.length; i++) out[i] = compute(x[i], node);
  };
}

// The smaller operand is broadcast over the leading axes, as in NumPy.
function binary(compute) {
  return (node, out, a, b) => {
    const period = Math.min(a.length, b.length);
    const aStep = a.length > period ? period : 0, bStep = b.length > period ? period : 0;
    for (let start = 0, aStart = 0, bStart = 0; start < out.length; start += period) {
      for (let i = 0; i < period; i++) out[start + i] = compute(a[aStart + i], b[bStart + i]);
      aStart += aStep;
      bStart += bStep;
    }
  };
}

// Matrix products and convolutions

// Multiply a [rows, depth] by the transpose of b [columns, depth], so that both are read in order.
// Tiles of 2 x 4 results stay in registers, which makes this several times faster than one result at a time.
function multiply(a, aStart, b, bStart, out, outStart, rows, columns, depth) {
  for (let column = 0; column < columns; column += 4) {
    const b0 = bStart + column * depth, last = bStart + (columns - 1) * depth;
    const b1 = Math.min(b0 + depth, last), b2 = Math.min(b1 + depth, last), b3 = Math.min(b2 + depth, last);
    for (let row = 0; row < rows; row += 2) {
      const a0 = aStart + row * depth, a1 = row + 1 < rows ? a0 + depth : a0;
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      for (let k = 0; k < depth; k++) {
        const x0 = a[a0 + k], x1 = a[a1 + k], y0 = b[b0 + k], y1 = b[b1 + k], y2 = b[b2 + k], y3 = b[b3 + k];
        s00 += x0 * y0; s01 += x0 * y1; s02 += x0 * y2; s03 += x0 * y3;
        s10 += x1 * y0; s11 += x1 * y1; s12 += x1 * y2; s13 += x1 * y3;
      }
      const first = outStart + row * columns + column, second = first + columns, count = columns - column;
      out[first] = s00;
      if (count > 1) out[first + 1] = s01;
      if (count > 2) out[first + 2] = s02;
      if (count > 3) out[first + 3] = s03;
      if (row + 1 < rows) {
        out[second] = s10;
        if (count > 1) out[second + 1] = s11;
        if (count > 2) out[second + 2] = s12;
        if (count > 3) out[second + 3] = s13;
      }
    }
  }
}

// a [batch, rows, depth] times the transpose of b [batch, columns, depth].
function MatMul({batch, rows, columns, depth}, out, a, b) {
  for (let i = 0; i < batch; i++) {
    multiply(a, i * rows * depth, b, i * columns * depth, out, i * rows * columns, rows, columns, depth);
  }
}

// x [H, W, C] and weights [C', kernel height, kernel width, C].
function Conv({input, kernel, stride, pad, output}, out, x, weights) {
  const [, , channels] = input, [height, width, outputs] = output;
  const depth = kernel[0] * kernel[1] * channels;
  const rowsAtOnce = Math.min(height, Math.max(1, Math.floor(PATCHES / width)));
  const patches = new Float32Array(rowsAtOnce * width * depth);
  for (let top = 0; top < height; top += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, height - top);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < width; column++) {
        copyPatch(patches, (row * width + column) * depth, x, input, kernel,
                  (top + row) * stride[0] - pad[0], column * stride[1] - pad[1]);
      }
    }
    multiply(patches, 0, weights, 0, out, top * width * outputs, rows * width, outputs, depth);
  }
}

// Copy the patch of x [H, W, C] under a kernel. The patch is 0 outside x.
function copyPatch(patches, start, x, [height, width, channels], kernel, top, left) {
  const row = kernel[1] * channels;
  const before = Math.max(0, -left) * channels, end = Math.min(kernel[1], width - left) * channels;
  for (let i = 0; i < kernel[0]; i++, start += row) {
    if (top + i < 0 || top + i >= height) {
      patches.fill(0, start, start + row);
      continue;
    }
    const source = ((top + i) * width + left) * channels;
    patches.fill(0, start, start + before);
    for (let j = before; j < end; j++) patches[start + j] = x[source + j];
    patches.fill(0, start + Math.max(before, end), start + row);
  }
}

// x [H, W, C] and weights [C', kernel height, kernel width, C]. Each position of x adds a patch to the output.
function ConvTranspose({input, kernel, stride, pad, output}, out, x, weights) {
  const [height, width, channels] = input, [outHeight, outWidth, outputs] = output;
  const size = kernel[0] * kernel[1], patches = new Float32Array(width * outputs * size);
  out.fill(0);
  for (let row = 0; row < height; row++) {
    multiply(x, row * width * channels, weights, 0, patches, 0, width, outputs * size, channels);
    for (let column = 0; column < width; column++) {
      for (let i = 0; i < kernel[0]; i++) {
        for (let j = 0; j < kernel[1]; j++) {
          const y = row * stride[0] - pad[0] + i, z = column * stride[1] - pad[1] + j;
          if (y < 0 || y >= outHeight || z < 0 || z >= outWidth) continue;
          const target = (y * outWidth + z) * outputs, source = column * outputs * size + i * kernel[1] + j;
          for (let k = 0; k < outputs; k++) out[target + k] += patches[source + k * size];
        }
      }
    }
  }
}

// Reductions

// The softmax of each row of the given length.
function Softmax({length}, out, x) {
  for (let start = 0; start < x.length; start += length) {
    let largest = -Infinity, total = 0;
    for (let i = start; i < start + length; i++) largest = Math.max(largest, x[i]);
    for (let i = start; i < start + length; i++) total += Math.exp(x[i] - largest);
    for (let i = start; i < start + length; i++) out[i] = Math.exp(x[i] - largest) / total;
  }
}

// Combine the numbers of each row of the given length.
function reduce(combine) {
  return ({length}, out, x) => {
    for (let row = 0; row < out.length; row++) {
      let result = x[row * length];
      for (let i = 1; i < length; i++) result = combine(result, x[row * length + i]);
      out[row] = result;
    }
  };
}

// Combine the positions of x [H, W, C] under each window, without those outside of x.
function pool(combine, finish) {
  return ({input, kernel, stride, pad, output}, out, x) => {
    const [height, width, channels] = input;
    let target = 0;
    for (let row = 0; row < output[0]; row++) {
      const top = row * stride[0] - pad[0], bottom = Math.min(height, top + kernel[0]);
      for (let column = 0; column < output[1]; column++) {
        const left = column * stride[1] - pad[1], right = Math.min(width, left + kernel[1]);
        for (let channel = 0; channel < channels; channel++) {
          let result, count = 0;
          for (let y = Math.max(0, top); y < bottom; y++) {
            for (let z = Math.max(0, left); z < right; z++, count++) {
              const value = x[(y * width + z) * channels + channel];
              result = count === 0 ? value : combine(result, value);
            }
          }
          out[target++] = finish(result, count);
        }
      }
    }
  };
}

// Rearrangements

// Copy a strided view of x: a slice, a transposition, or repeated elements. strides are in elements of x.
function View({start, sizes, strides}, out, x) {
  let target = 0;
  const copy = (axis, source) => {
    if (axis === sizes.length) {
      out[target++] = x[source];
      return;
    }
    for (let i = 0; i < sizes[axis]; i++) copy(axis + 1, source + i * strides[axis]);
  };
  copy(0, start);
}

// lengths: how many consecutive numbers of the result come from each operand.
function Concat({lengths}, out, ...operands) {
  for (let target = 0, block = 0; target < out.length; block++) {
    operands.forEach((x, i) => {
      out.set(x.subarray(block * lengths[i], (block + 1) * lengths[i]), target);
      target += lengths[i];
    });
  }
}

// The rows of a table that the indices select.
function Gather({length}, out, table, indices) {
  indices.forEach((index, i) => {
    checkIndex(index, table.length / length);
    out.set(table.subarray(index * length, (index + 1) * length), i * length);
  });
}

function OneHot({depth}, out, indices) {
  out.fill(0);
  indices.forEach((index, i) => {
    checkIndex(index, depth);
    out[i * depth + index] = 1;
  });
}

function checkIndex(index, count) {
  if (!Number.isInteger(index) || index < 0 || index >= count) {
    throw new Error(`${index} is not a class: use a number from 0 to ${count - 1}`);
  }
}

// Weights

// Each row of 8-bit integers has a scale, which is stored before the integers of all rows.
function decodeConstant({type, size, start, rows}, weights) {
  if (type === 'float32') return new Float32Array(weights.slice(start, start + 4 * size));
  const values = new Float32Array(size);
  if (type === 'float16') {
    const halves = new Uint16Array(weights.slice(start, start + 2 * size));
    for (let i = 0; i < size; i++) values[i] = halfToFloat(halves[i]);
    return values;
  }
  const scales = new Float32Array(weights.slice(start, start + 4 * rows));
  const integers = new Int8Array(weights, start + 4 * rows, size), length = size / rows;
  for (let i = 0; i < size; i++) values[i] = integers[i] * scales[Math.floor(i / length)];
  return values;
}

// The number whose IEEE 754 half-precision bits are given. Infinities and NaN do not occur.
function halfToFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

// Networks

// A network with its constants decoded and memory for all other values.
function prepare({nodes, inputs, outputs}, weights) {
  const values = nodes.map(node =>
    node.operation === 'Constant' ? decodeConstant(node, weights) : new Float32Array(node.size));
  return {nodes, inputs, outputs, values};
}

// Compute all nodes. The label is null in a network without classes.
function compute({nodes, inputs, values}, data, label, gammas) {
  if (data.length !== values[inputs.data].length) {
    throw new Error(`the network expects ${values[inputs.data].length} numbers, not ${data.length}`);
  }
  if (gammas.length !== inputs.gammas.length) {
    throw new Error(`the network has ${inputs.gammas.length} attention layers, not ${gammas.length}`);
  }
  values[inputs.data].set(data);
  if (inputs.label !== null) values[inputs.label][0] = label === null ? NaN : label;
  inputs.gammas.forEach((index, i) => { values[index][0] = gammas[i]; });
  nodes.forEach((node, index) => {
    if (node.operation === 'Input' || node.operation === 'Constant') return;
    OPERATIONS[node.operation](node, values[index], ...node.inputs.map(input => values[input]));
  });
}

// Messages

let networks;

const ANSWERS = {
  load({graph, weights}) {
    networks = {generator: prepare(graph.generator, weights), discriminator: prepare(graph.discriminator, weights)};
    return {kind: 'ready'};
  },
  generate({id, z, label, gammas}) {
    const {values, outputs} = networks.generator;
    compute(networks.generator, z, label, gammas);
    return {kind: 'generated', id, pixels: values[outputs.result].slice(),
            maps: outputs.maps.map(i => values[i].slice())};
  },
  judge({id, pixels, label, gammas}) {
    const {values, outputs} = networks.discriminator;
    compute(networks.discriminator, pixels, label, gammas);
    return {kind: 'judged', id, output: values[outputs.result][0], maps: outputs.maps.map(i => values[i].slice())};
  },
};

onmessage = ({data}) => {
  try {
    postMessage(ANSWERS[data.kind](data));
  } catch (error) {
    postMessage({kind: 'error', id: data.id, message: error.message});
  }
};
