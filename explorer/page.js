// The attention page. explorer/snapshots.py documents the arrays; explorer/page.py embeds them with the metadata.
'use strict';

const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
                 [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const MAP_OPACITY = 0.75;  // over the image
const FRAME_COLOR = '#ff5fa2';  // not in VIRIDIS
const MAX_GRID_LINES = 32;  // per axis; more would hide the image
const IMAGE_HEIGHT = 448, THUMBNAIL_HEIGHT = 112;  // canvas pixels, approximately
const PLAY_INTERVAL = 500, ADDRESS_DELAY = 300;  // milliseconds
const TYPED_ARRAYS = {uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array};

const element = id => document.getElementById(id);
const metadata = JSON.parse(element('metadata').textContent);
const {snapshots, layers} = metadata;
const networks = [...new Set(layers.map(layer => layer.network))];
const arrays = {};  // {name: {shape, values}}; shape is [snapshots or 1, images, ...]
const imageCache = {};  // {key: canvas}

// direction: 'looks' shows the row of the attention map, 'looked' the column.
// scale: 'own' scales colors to the maximum of the map, 'all' to that of all maps of the layer.
const INITIAL_VIEW = {network: networks[0], layer: 0, image: 0, snapshot: snapshots.length - 1, position: 0,
                      held: false, direction: 'looks', scale: 'own'};
const view = {...INITIAL_VIEW};

// ---- Data

async function readArrays() {
  const compressed = Uint8Array.from(atob(element('data').textContent), character => character.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const buffer = await new Response(stream).arrayBuffer();
  for (const [name, {dtype, start, shape}] of Object.entries(metadata.arrays)) {
    const TypedArray = TYPED_ARRAYS[dtype];
    const end = start + product(shape) * TypedArray.BYTES_PER_ELEMENT;
    arrays[name] = {shape, values: new TypedArray(buffer.slice(start, end))};
  }
  layers.forEach((layer, i) => { layer.maximum = maximum(arrays[`most_${i}`].values); });
}

function product(sizes) {
  return sizes.reduce((result, size) => result * size, 1);
}

function maximum(values) {
  return values.reduce((result, value) => Math.max(result, value), 0);
}

// Return the index in array.values of the first value at [snapshot, ...indices].
function offset({shape}, snapshot, ...indices) {
  let index = shape[0] === 1 ? 0 : snapshot;  // an array that is the same in all snapshots is stored once
  for (let axis = 1; axis < shape.length; axis++) index = index * shape[axis] + (indices[axis - 1] ?? 0);
  return index;
}

function layersOf(network) {
  return layers.filter(layer => layer.network === network);
}

function selectedLayer() {
  return layersOf(view.network)[view.layer];
}

// Return the array <kind>_<i> of the selected layer i, or undefined if the layer has no such array.
function layerArray(kind) {
  return arrays[`${kind}_${layers.indexOf(selectedLayer())}`];
}

// Return [height, width, channels].
function imageShape() {
  return arrays[view.network].shape.slice(2);
}

// Return the rows and columns of positions that one cell of a grid covers: more than 1 if keys are pooled.
function cellSpan(grid) {
  return selectedLayer().positions.map((count, axis) => Math.ceil(count / grid[axis]));
}

function rowAndColumn(position) {
  const columns = selectedLayer().positions[1];
  return [Math.floor(position / columns), position % columns];
}

// Return undefined if the row or column is not on the grid.
function positionAt(row, column) {
  const [rows, columns] = selectedLayer().positions;
  const onGrid = row >= 0 && row < rows && column >= 0 && column < columns;
  return onGrid ? row * columns + column : undefined;
}

// Return the key that covers a position.
function keyAt(position) {
  const {keys} = selectedLayer();
  const [row, column] = rowAndColumn(position);
  const [rowSpan, columnSpan] = cellSpan(keys);
  return Math.floor(row / rowSpan) * keys[1] + Math.floor(column / columnSpan);
}

// Call visit(key, weight) for each recorded weight in the row of a position.
function visitRow(snapshot, position, visit) {
  const weights = layerArray('shares'), keys = layerArray('keys'), largest = layerArray('most');
  const start = offset(weights, snapshot, view.image, position);
  const unit = largest.values[offset(largest, snapshot, view.image, position)] / 255;
  for (let i = 0; i < weights.shape[3]; i++) visit(keys ? keys.values[start + i] : i, weights.values[start + i] * unit);
}

// Return the row of the attention map: the weight that the position gives to each key.
function rowWeights(snapshot, position) {
  const weights = new Float32Array(product(selectedLayer().keys));
  visitRow(snapshot, position, (key, weight) => { weights[key] = weight; });
  return weights;
}

// Return the column of the attention map: the weight that each position gives to the key at this position.
function columnWeights(snapshot, position) {
  const selectedKey = keyAt(position);
  const weights = new Float32Array(product(selectedLayer().positions));
  for (let row = 0; row < weights.length; row++)
    visitRow(snapshot, row, (key, weight) => { if (key === selectedKey) weights[row] = weight; });
  return weights;
}

// Return the weights to show, one per cell of mapGrid().
function mapWeights(snapshot, position) {
  return view.direction === 'looks' ? rowWeights(snapshot, position) : columnWeights(snapshot, position);
}

// Return the rows and columns of the map to show.
function mapGrid() {
  return view.direction === 'looks' ? selectedLayer().keys : selectedLayer().positions;
}

// Return the position with the largest weight in the selected image.
function sharpestPosition() {
  const largest = layerArray('most');
  const start = offset(largest, view.snapshot, view.image);
  const values = largest.values.slice(start, start + largest.shape[2]);
  return values.indexOf(maximum(values));
}

// Return the weight that is drawn in the brightest color.
function scaleMaximum(weights) {
  const top = view.scale === 'all' ? selectedLayer().maximum : maximum(weights);
  return top > 0 ? top : 1;
}

// ---- Drawing

// Return the color [red, green, blue] of a value in [0, 1].
function viridis(value) {
  const at = value * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((start, channel) => Math.round(start + (at - low) * (VIRIDIS[low + 1][channel] - start)));
}

// Return a canvas whose pixel i has the color colorOf(i).
function paint(height, width, colorOf) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) pixels.data.set([...colorOf(i), 255], 4 * i);
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  return canvas;
}

// Return a canvas with the image of the selected network whose values begin at start.
function paintImage(start, gray) {
  const [height, width, channels] = imageShape();
  const {values} = arrays[view.network];
  return paint(height, width, i => {
    const rgb = [0, 1, 2].map(channel => values[start + i * channels + channel % channels]);
    return gray ? rgb.fill((rgb[0] + rgb[1] + rgb[2]) / 3) : rgb;
  });
}

// Draw an image, each pixel as a square of scale x scale. Return the context of the canvas.
function drawImage(canvas, snapshot, image, scale, gray) {
  const [height, width] = imageShape();
  const start = offset(arrays[view.network], snapshot, image);
  const key = [view.network, start, gray].join();
  imageCache[key] ??= paintImage(start, gray);
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(imageCache[key], 0, 0, canvas.width, canvas.height);
  return context;
}

// Draw the map of the selected position over a gray version of the image. Return the context of the canvas.
function drawMap(canvas, snapshot, weights, scale) {
  const grid = mapGrid(), span = cellSpan(grid), {positions} = selectedLayer();
  const context = drawImage(canvas, snapshot, view.image, scale, true);
  const top = scaleMaximum(weights);
  const map = paint(grid[0], grid[1], i => viridis(weights[i] / top));
  context.globalAlpha = MAP_OPACITY;
  // Pooled keys at the lower and right border may cover more than the image.
  context.drawImage(map, 0, 0, canvas.width * grid[1] * span[1] / positions[1],
                    canvas.height * grid[0] * span[0] / positions[0]);
  context.globalAlpha = 1;
  return context;
}

function drawFrame(context, position) {
  const {positions} = selectedLayer();
  const [row, column] = rowAndColumn(position);
  const height = context.canvas.height / positions[0], width = context.canvas.width / positions[1];
  for (const [color, lineWidth] of [['#000', 5], [FRAME_COLOR, 3]]) {
    context.strokeStyle = color;
    context.lineWidth = lineWidth;
    context.strokeRect(column * width + 2, row * height + 2, Math.max(width - 4, 2), Math.max(height - 4, 2));
  }
}

function drawGridLines(context) {
  const [rows, columns] = selectedLayer().positions;
  const {width, height} = context.canvas;
  if (Math.max(rows, columns) > MAX_GRID_LINES) return;
  context.globalCompositeOperation = 'difference';  // visible on dark and on bright pixels
  context.fillStyle = '#666';
  for (let row = 1; row < rows; row++) context.fillRect(0, row * height / rows - 1, width, 2);
  for (let column = 1; column < columns; column++) context.fillRect(column * width / columns - 1, 0, 2, height);
  context.globalCompositeOperation = 'source-over';
}

function drawColorScale() {
  const bar = paint(2, 256, i => {
    const background = i < 256 ? 0 : 255;
    return viridis(i % 256 / 255).map(value => MAP_OPACITY * value + (1 - MAP_OPACITY) * background);
  });
  element('color-scale').width = 256;
  element('color-scale').height = 2;
  element('color-scale').getContext('2d').drawImage(bar, 0, 0);
}

// Label the color scale, and mark the weight of uniform attention on it.
function renderScaleLabels(top) {
  const uniform = 1 / product(selectedLayer().keys);
  const left = 100 * uniform / top;
  const text = `uniform: ${percent(uniform)}`;
  const label = element('uniform');
  element('scale-max').textContent = percent(top);
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

function renderGamma() {
  const gammas = selectedLayer().gamma;  // one per snapshot
  const last = gammas.length - 1, current = gammas[view.snapshot];
  const low = Math.min(0, ...gammas);
  const high = Math.max(0, ...gammas, low + 1e-3);  // the axis needs a length, even if all gammas are 0
  const width = element('gamma').clientWidth, left = 60, right = width - 20;
  const x = i => left + (right - left) * i / Math.max(last, 1);
  const y = gamma => 125 - 110 * (gamma - low) / (high - low);
  const axis = gamma =>
    `<line class="axis" x1="${left}" x2="${right}" y1="${y(gamma)}" y2="${y(gamma)}"/>` +
    `<text x="${left - 6}" y="${y(gamma) + 4}" text-anchor="end">${gamma.toFixed(3)}</text>`;
  const tick = (i, anchor) => `<text x="${x(i)}" y="145" text-anchor="${anchor}">${snapshotName(i)}</text>`;
  const limits = [low, high].filter(gamma => Math.abs(y(gamma) - y(0)) > 14);  // labels must not overlap
  const points = gammas.map((gamma, i) => `${x(i)},${y(gamma)}`).join(' ');
  element('gamma').setAttribute('viewBox', `0 0 ${width} 150`);
  element('gamma').innerHTML = [0, ...limits].map(axis).join('') +
    tick(0, 'start') + (last > 0 ? tick(last, 'end') : '') +
    `<polyline class="curve" points="${points}"/>` +
    `<line class="current" x1="${x(view.snapshot)}" x2="${x(view.snapshot)}" y1="10" y2="130"/>` +
    `<circle cx="${x(view.snapshot)}" cy="${y(current)}" r="4"/>`;
  element('gamma-value').textContent = `${snapshotName(view.snapshot)}: gamma ${current.toFixed(3)}`;
}

// ---- Text

function percent(weight) {
  const value = 100 * weight;
  if (value === 0 || value >= 10) return `${value.toFixed(0)}\u00a0%`;
  if (value >= 1) return `${value.toFixed(1)}\u00a0%`;
  return `${value.toPrecision(2)}\u00a0%`;
}

// Epoch 0 means that the epoch is unknown.
function snapshotName(i) {
  const {epoch, step} = snapshots[i];
  return epoch ? `epoch ${epoch}` : `step ${step}`;
}

function rangeName(word, first, last) {
  return first === last ? `${word} ${first}` : `${word}s ${first}–${last}`;
}

// Return the rows and columns of positions that a cell of a grid covers, in words.
function cellName(cell, grid) {
  const {positions} = selectedLayer();
  const [rowSpan, columnSpan] = cellSpan(grid);
  const row = Math.floor(cell / grid[1]) * rowSpan, column = cell % grid[1] * columnSpan;
  return rangeName('row', row + 1, Math.min(row + rowSpan, positions[0])) + ', ' +
    rangeName('column', column + 1, Math.min(column + columnSpan, positions[1]));
}

function renderText(weights) {
  const {positions, keys} = selectedLayer();
  const position = cellName(view.position, positions), key = cellName(keyAt(view.position), keys);
  const top = [...weights.keys()].filter(i => weights[i] > 0).sort((a, b) => weights[b] - weights[a]).slice(0, 5);
  const real = view.network === 'discriminator' && snapshots[view.snapshot].real;

  element('image-title').textContent = `${view.held ? 'Held' : 'Position'}: ${position}`;
  element('image-note').textContent = `${real ? 'Real test image' : 'Generated image'}, ` +
    `${positions.join(' × ')} positions, ${product(keys)} keys`;
  element('map-title').textContent =
    view.direction === 'looks' ? `Where ${position} looks` : `What looks at ${key}`;
  element('status').textContent = `${snapshotName(view.snapshot)}, ${view.network}${view.held ? ', held' : ''}: ` +
    largestWeight(position, key, weights, top[0]);
  element('top').replaceChildren(...top.map(cell => {
    const item = document.createElement('li');
    item.textContent = `${cellName(cell, mapGrid())}: ${percent(weights[cell])}`;
    return item;
  }));
  element('omitted').textContent = omittedWeights();
}

// Describe the largest weight. cell is its index, or undefined if all weights are 0.
function largestWeight(position, key, weights, cell) {
  if (cell === undefined) return `all recorded weights of ${key} are 0`;
  const name = cellName(cell, mapGrid()), weight = percent(weights[cell]);
  if (view.direction === 'looks') return `${position} looks most at ${name} (${weight})`;
  return `the largest weight on ${key} comes from ${name} (${weight})`;
}

// Describe the weights that are not recorded.
function omittedWeights() {
  const rest = layerArray('rest');
  if (!rest) return '';
  const count = layerArray('keys').shape[3];
  if (view.direction === 'looked') return `Only the ${count} largest weights of each position are recorded.`;
  const sum = rest.values[offset(rest, view.snapshot, view.image, view.position)];
  return `All weights except the ${count} largest add up to ${percent(sum)}.`;
}

// ---- Rendering

function render() {
  const [height] = imageShape();
  const imageScale = Math.max(1, Math.round(IMAGE_HEIGHT / height));
  const thumbnailScale = Math.max(1, Math.round(THUMBNAIL_HEIGHT / height));
  const weights = mapWeights(view.snapshot, view.position);

  const image = drawImage(element('image'), view.snapshot, view.image, imageScale, false);
  drawGridLines(image);
  drawFrame(image, view.position);
  drawFrame(drawMap(element('map'), view.snapshot, weights, imageScale), view.position);
  renderScaleLabels(scaleMaximum(weights));
  [...element('strip').children].forEach((button, i) => {
    drawMap(button.firstChild, i, mapWeights(i, view.position), thumbnailScale);
    button.setAttribute('aria-pressed', i === view.snapshot);
  });
  [...element('images').children].forEach((label, i) => drawImage(label.lastChild, view.snapshot, i, 1, false));
  renderGamma();
  renderText(weights);
  renderControls();
}

function renderControls() {
  for (const name of ['network', 'image', 'direction', 'scale'])
    document.querySelector(`input[name=${name}][value="${view[name]}"]`).checked = true;
  const {epoch, step} = snapshots[view.snapshot];
  element('snapshot').value = view.snapshot;
  element('snapshot').setAttribute('aria-valuetext', snapshotName(view.snapshot));
  element('snapshot-name').textContent = epoch ? `epoch ${epoch}, step ${step}` : `step ${step}`;
  element('layer').replaceChildren(...layersOf(view.network).map(({positions}, i) =>
    new Option(`${i + 1}: ${positions.join(' × ')}`, i, false, i === view.layer)));
}

// ---- Changing the view

let frameRequest = null;
let addressTimer = null;

function clamp(value, count) {
  return Math.min(Math.max(value, 0), count - 1);
}

// Change the view. Draw it once per frame, and write the address later: browsers limit how often it may change.
function change(values) {
  Object.assign(view, values);
  view.layer = clamp(view.layer, layersOf(view.network).length);
  view.image = clamp(view.image, metadata.num_images);
  view.snapshot = clamp(view.snapshot, snapshots.length);
  view.position = clamp(view.position, product(selectedLayer().positions));
  frameRequest ??= requestAnimationFrame(() => {
    frameRequest = null;
    render();
  });
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => history.replaceState(null, '', `#${address()}`), ADDRESS_DELAY);
}

// Change the network or layer. The position stays if the new layer has the same grid.
function changeLayer(values) {
  const positions = selectedLayer().positions.join();
  change(values);
  if (selectedLayer().positions.join() !== positions) change({position: sharpestPosition()});
}

function changeNetwork(network) {
  if (networks.includes(network)) changeLayer({network});
}

function movePosition(rows, columns) {
  const [row, column] = rowAndColumn(view.position);
  const position = positionAt(row + rows, column + columns);
  if (position !== undefined) change({position});
}

let playTimer = null;

function stopPlaying() {
  clearInterval(playTimer);
  playTimer = null;
  element('play').textContent = 'Play';
}

function startPlaying() {
  const last = snapshots.length - 1;
  if (view.snapshot === last) change({snapshot: 0});
  element('play').textContent = 'Pause';
  playTimer = setInterval(() => {
    change({snapshot: view.snapshot + 1});
    if (view.snapshot === last) stopPlaying();
  }, PLAY_INTERVAL);
}

// ---- Address: stores the view. Layer, image and position are counted from 1.
// Old links may have epoch instead of step.

function address() {
  const [row, column] = rowAndColumn(view.position);
  return `network=${view.network}&layer=${view.layer + 1}&image=${view.image + 1}` +
    `&step=${snapshots[view.snapshot].step}&place=${row + 1},${column + 1}&by=${view.direction}` +
    `&scale=${view.scale}${view.held ? '&held=1' : ''}`;
}

// Set the view from the address. Missing or invalid parameters get their initial values.
function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const values = {...INITIAL_VIEW, held: parameters.get('held') === '1'};
  if (networks.includes(parameters.get('network'))) values.network = parameters.get('network');
  if (['looks', 'looked'].includes(parameters.get('by'))) values.direction = parameters.get('by');
  if (['own', 'all'].includes(parameters.get('scale'))) values.scale = parameters.get('scale');
  for (const name of ['layer', 'image']) {
    const number = parseInt(parameters.get(name), 10);
    if (number >= 1) values[name] = number - 1;
  }
  const snapshot = snapshots.findIndex(
    ({epoch, step}) => `${step}` === parameters.get('step') || `${epoch}` === parameters.get('epoch'));
  if (snapshot >= 0) values.snapshot = snapshot;
  change(values);
  const [row, column] = (parameters.get('place') ?? '').split(',').map(number => parseInt(number, 10) - 1);
  change({position: positionAt(row, column) ?? sharpestPosition()});
}

// ---- Controls

const SHORTCUTS = {
  '[': () => change({snapshot: view.snapshot - 1}), ']': () => change({snapshot: view.snapshot + 1}),
  g: () => changeNetwork('generator'), d: () => changeNetwork('discriminator'), Escape: () => change({held: false})};
const POSITION_SHORTCUTS = {  // inputs and buttons use these keys themselves
  ArrowUp: () => movePosition(-1, 0), ArrowDown: () => movePosition(1, 0), ArrowLeft: () => movePosition(0, -1),
  ArrowRight: () => movePosition(0, 1), Enter: () => change({held: !view.held})};

function handleKey(event) {
  const bracket = event.key === '[' || event.key === ']';  // some keyboards need AltGr, which counts as Ctrl and Alt
  if (event.metaKey || ((event.ctrlKey || event.altKey) && !bracket)) return;
  const onControl = event.target.closest('input, select, button, summary');
  const action = SHORTCUTS[event.key] ?? (onControl ? undefined : POSITION_SHORTCUTS[event.key]);
  if (!action) return;
  event.preventDefault();
  action();
}

function positionUnder(event) {
  const [rows, columns] = selectedLayer().positions;
  const {left, top, width, height} = element('image').getBoundingClientRect();
  const row = Math.floor((event.clientY - top) / height * rows);
  const column = Math.floor((event.clientX - left) / width * columns);
  return clamp(row, rows) * columns + clamp(column, columns);  // the border of the canvas is outside the grid
}

function previewPosition(event) {
  const position = positionUnder(event);
  if (!view.held && position !== view.position) change({position});
}

function holdPosition(event) {
  const position = positionUnder(event);
  change({position, held: !view.held || position !== view.position});
}

function handleInput({target: {name, value}}) {
  if (name === 'network') changeNetwork(value);
  else if (name === 'image') change({image: Number(value)});
  else if (name) change({[name]: value});
}

function countOf(shown, total) {
  return shown === total ? `${shown}` : `${shown} of ${total}`;
}

function buildControls() {
  document.title = `Where attention looks: ${metadata.title}`;
  element('title').textContent = metadata.title;
  element('contents').textContent =
    `Snapshots: ${countOf(snapshots.length, snapshots.length + metadata.left_out)}. ` +
    `Images: ${countOf(metadata.num_images, metadata.recorded_images)}.`;
  element('networks').innerHTML = networks.map(network =>
    `<label><input type="radio" name="network" value="${network}">${network}</label>`).join('');
  element('images').innerHTML = Array.from({length: metadata.num_images}, (_, i) =>
    `<label><input type="radio" name="image" value="${i}" aria-label="Image ${i + 1}"><canvas></canvas></label>`,
  ).join('');
  element('strip').innerHTML = snapshots.map(({epoch}, i) =>
    `<button type="button" aria-label="${snapshotName(i)}"><canvas></canvas>${epoch || snapshotName(i)}</button>`,
  ).join('');
  element('snapshot').max = snapshots.length - 1;
  element('layer-field').hidden = layers.length === networks.length;  // one layer per network
  drawColorScale();
}

function addListeners() {
  document.addEventListener('change', handleInput);
  document.addEventListener('keydown', handleKey);
  element('layer').addEventListener('change', event => changeLayer({layer: Number(event.target.value)}));
  element('snapshot').addEventListener('input', event => change({snapshot: Number(event.target.value)}));
  element('play').addEventListener('click', () => playTimer === null ? startPlaying() : stopPlaying());
  [...element('strip').children].forEach((button, snapshot) =>
    button.addEventListener('click', () => change({snapshot})));
  element('image').addEventListener('pointermove', previewPosition);
  element('image').addEventListener('click', holdPosition);
  window.addEventListener('hashchange', readAddress);
  window.addEventListener('resize', () => change({}));
}

async function start() {
  try {
    await readArrays();
    buildControls();
    document.querySelector('main').hidden = false;
    addListeners();
    readAddress();
  } catch (error) {
    element('error').textContent =
      `The page cannot be shown (${error.message}): open an undamaged copy in a browser from 2024 or later`;
    element('error').hidden = false;
  }
}

start();
