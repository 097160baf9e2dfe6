// What the attention page and the playground share: drawing images and attention maps, and naming cells.
// A grid is [rows, columns], and a cell of a grid is an index in row-major order. The positions and the keys of a layer
// are two grids.
'use strict';

const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
                 [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const MAP_OPACITY = 0.75;  // over the image
const FRAME_COLOUR = '#ff5fa2';  // not in VIRIDIS
const MAX_GRID_LINES = 32;  // per axis; more would hide the image
const IMAGE_HEIGHT = 448, THUMBNAIL_HEIGHT = 112;  // canvas pixels, approximately
const LISTED_WEIGHTS = 5;
const INKED = 0.5;  // share of the largest amount of ink; positions with less are background

const element = id => document.getElementById(id);

// ---- Numbers

function product(sizes) {
  return sizes.reduce((result, size) => result * size, 1);
}

function maximum(values) {
  return values.reduce((result, value) => Math.max(result, value), 0);
}

// Return value, limited to the range from 0 to count - 1.
function clamp(value, count) {
  return Math.min(Math.max(value, 0), count - 1);
}

// Return the number of canvas pixels per image pixel that gives approximately the canvas height.
function scaleFor(canvasHeight, imageHeight) {
  return Math.max(1, Math.round(canvasHeight / imageHeight));
}

// Return the ArrayBuffer with the bytes that compressed() of page.py has encoded in a text.
async function decompress(text) {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return await new Response(stream).arrayBuffer();
}

// ---- Grids

function rowAndColumn(cell, [, columns]) {
  return [Math.floor(cell / columns), cell % columns];
}

// Return undefined if the row or column is not on the grid.
function cellAt(row, column, [rows, columns]) {
  const onGrid = row >= 0 && row < rows && column >= 0 && column < columns;
  return onGrid ? row * columns + column : undefined;
}

// Return the cell of a grid under the pointer, which is on a canvas that the grid covers.
function cellUnder({clientX, clientY}, canvas, [rows, columns]) {
  const {left, top, width, height} = canvas.getBoundingClientRect();
  const row = Math.floor((clientY - top) / height * rows);
  const column = Math.floor((clientX - left) / width * columns);
  return clamp(row, rows) * columns + clamp(column, columns);  // the border of the canvas is outside the grid
}

// Return the rows and columns of positions that one cell of a grid covers: more than 1 if keys are pooled.
function cellSpan(grid, positions) {
  return positions.map((count, axis) => Math.ceil(count / grid[axis]));
}

// Return the key that covers a position.
function keyAt(position, {positions, keys}) {
  const [row, column] = rowAndColumn(position, positions);
  const [rowSpan, columnSpan] = cellSpan(keys, positions);
  return Math.floor(row / rowSpan) * keys[1] + Math.floor(column / columnSpan);
}

// Return the cells with the largest weights, largest first. Weights of 0 are left out.
function largestCells(weights) {
  const cells = [...weights.keys()].filter(cell => weights[cell] > 0);
  return cells.sort((a, b) => weights[b] - weights[a]).slice(0, LISTED_WEIGHTS);
}

// ---- The position to show first

// Return the amount of ink at each position of the image whose values begin at start. Ink is the brightness of a grey
// image. In colour, it is the difference from the mean colour of the border.
function inkAt(values, start, [height, width, channels], [rows, columns]) {
  const pixel = (y, x) => values.subarray(start + (y * width + x) * channels, start + (y * width + x + 1) * channels);
  const background = new Float32Array(channels);
  if (channels > 1) {
    const border = [];
    for (let y = 0; y < height; y++) border.push(pixel(y, 0), pixel(y, width - 1));
    for (let x = 0; x < width; x++) border.push(pixel(0, x), pixel(height - 1, x));
    for (const colour of border) colour.forEach((value, i) => { background[i] += value / border.length; });
  }
  const ink = new Float32Array(rows * columns);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const position = Math.floor(y * rows / height) * columns + Math.floor(x * columns / width);
      pixel(y, x).forEach((value, i) => { ink[position] += Math.abs(value - background[i]); });
    }
  }
  return ink;
}

// Consider the inked positions whose largest weight is on another inked position. If there are none, consider all inked
// positions. Return the one with the largest weight.
// rowOf(position) returns the weights that a position gives to the keys.
function sharpestPosition(ink, layer, rowOf) {
  const least = INKED * maximum(ink);
  const inked = [...ink.keys()].filter(position => ink[position] >= least);
  const inkedKeys = new Set(inked.map(position => keyAt(position, layer)));
  const looks = inked.map(position => {
    const weights = rowOf(position), weight = maximum(weights), key = weights.indexOf(weight);
    return {position, weight, atOther: inkedKeys.has(key) && key !== keyAt(position, layer)};
  });
  looks.sort((a, b) => b.atOther - a.atOther || b.weight - a.weight);
  return looks[0].position;
}

// ---- Drawing

// Return the colour [red, green, blue] of a value in [0, 1].
function viridis(value) {
  const at = value * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((start, channel) => Math.round(start + (at - low) * (VIRIDIS[low + 1][channel] - start)));
}

// Return a canvas whose pixel i has the colour colourOf(i).
function paint(height, width, colourOf) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) pixels.data.set([...colourOf(i), 255], 4 * i);
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  return canvas;
}

// Return a canvas with the image whose values, from 0 to 255, begin at start.
function paintImage(values, start, [height, width, channels], grey) {
  return paint(height, width, i => {
    const rgb = [0, 1, 2].map(channel => values[start + i * channels + channel % channels]);
    return grey ? rgb.fill((rgb[0] + rgb[1] + rgb[2]) / 3) : rgb;
  });
}

// Draw a painted image, each pixel as a square of scale x scale. Return the context of the canvas.
function drawImage(canvas, painted, scale) {
  canvas.width = painted.width * scale;
  canvas.height = painted.height * scale;
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(painted, 0, 0, canvas.width, canvas.height);
  return context;
}

// Draw the weights of a grid over the image in a context. A weight equal to top gets the brightest colour.
function drawMap(context, weights, top, grid, positions) {
  const span = cellSpan(grid, positions), {width, height} = context.canvas;
  const map = paint(grid[0], grid[1], i => viridis(weights[i] / top));
  context.globalAlpha = MAP_OPACITY;
  // Pooled keys at the lower and right border may cover more than the image.
  context.drawImage(map, 0, 0, width * grid[1] * span[1] / positions[1], height * grid[0] * span[0] / positions[0]);
  context.globalAlpha = 1;
}

function drawFrame(context, position, positions) {
  const [row, column] = rowAndColumn(position, positions);
  const height = context.canvas.height / positions[0], width = context.canvas.width / positions[1];
  for (const [colour, lineWidth] of [['#000', 5], [FRAME_COLOUR, 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = lineWidth;
    context.strokeRect(column * width + 2, row * height + 2, Math.max(width - 4, 2), Math.max(height - 4, 2));
  }
}

function drawGridLines(context, [rows, columns]) {
  const {width, height} = context.canvas;
  if (Math.max(rows, columns) > MAX_GRID_LINES) return;
  context.globalCompositeOperation = 'difference';  // visible on dark and on bright pixels
  context.fillStyle = '#666';
  for (let row = 1; row < rows; row++) context.fillRect(0, row * height / rows - 1, width, 2);
  for (let column = 1; column < columns; column++) context.fillRect(column * width / columns - 1, 0, 2, height);
  context.globalCompositeOperation = 'source-over';
}

function drawColourScale(canvas) {
  drawImage(canvas, paint(2, 256, i => {
    const background = i < 256 ? 0 : 255;
    return viridis(i % 256 / 255).map(value => MAP_OPACITY * value + (1 - MAP_OPACITY) * background);
  }), 1);
}

// Mark the weight of uniform attention on a colour scale that ends at top.
function markUniform(label, uniform, top) {
  const left = 100 * uniform / top;
  const text = `uniform: ${percent(uniform)}`;
  label.style.left = '';
  label.style.right = '';
  if (left > 101) {  // more than 100, to allow for rounding
    label.textContent = `${text} (off the scale)`;
    label.style.right = '0';
  } else if (left > 50) {
    label.textContent = `${text} ↑`;
    label.style.right = `${Math.max(0, 100 - left)}%`;
  } else {
    label.textContent = `↑ ${text}`;
    label.style.left = `${left}%`;
  }
}

// ---- Text

function percent(weight) {
  const value = 100 * weight;
  if (value === 0 || value >= 10) return `${value.toFixed(0)}%`;
  if (value >= 1) return `${value.toFixed(1)}%`;
  return `${value.toPrecision(2)}%`;
}

function rangeName(word, first, last) {
  return first === last ? `${word} ${first}` : `${word}s ${first}–${last}`;
}

// Return the rows and columns of positions that a cell of a grid covers, in words.
function cellName(cell, grid, positions) {
  const [rowSpan, columnSpan] = cellSpan(grid, positions);
  const row = Math.floor(cell / grid[1]) * rowSpan, column = cell % grid[1] * columnSpan;
  return rangeName('row', row + 1, Math.min(row + rowSpan, positions[0])) + ', ' +
    rangeName('column', column + 1, Math.min(column + columnSpan, positions[1]));
}

// List the largest weights in an <ol>.
function listWeights(list, weights, grid, positions) {
  list.replaceChildren(...largestCells(weights).map(cell => {
    const item = document.createElement('li');
    item.textContent = `${cellName(cell, grid, positions)}: ${percent(weights[cell])}`;
    return item;
  }));
}

function showError(error) {
  element('error').textContent =
    `The page does not work (${error.message}): reload it, or open an undamaged copy in a browser from 2024 or later`;
  element('error').hidden = false;
}
