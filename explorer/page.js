// The attention page. It uses maps.js. snapshots.py documents the arrays; page.py embeds them with the metadata.
'use strict';

const PLAY_INTERVAL = 500, ADDRESS_DELAY = 300;  // milliseconds
const TYPED_ARRAYS = {uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array};

const metadata = JSON.parse(element('metadata').textContent);
const {snapshots, layers} = metadata;
const networks = [...new Set(layers.map(layer => layer.network))];
const arrays = {};  // {name: {shape, values}}; shape is [snapshots or 1, images, ...]
const imageCache = {};  // {key: canvas}

// direction: 'looks' shows the row of the attention map, 'looked' the column.
// scale: 'own' scales colours to the maximum of the map, 'all' to that of all maps of the layer.
const INITIAL_VIEW = {
  network: networks.includes('discriminator') ? 'discriminator' : 'generator', layer: 0, image: 0,
  snapshot: snapshots.length - 1, position: 0, held: false, direction: 'looks', scale: 'own'};
const view = {...INITIAL_VIEW};

// ---- Data

async function readArrays() {
  const buffer = await decompress(element('data').textContent);
  for (const [name, {dtype, start, shape}] of Object.entries(metadata.arrays)) {
    const TypedArray = TYPED_ARRAYS[dtype];
    const end = start + product(shape) * TypedArray.BYTES_PER_ELEMENT;
    arrays[name] = {shape, values: new TypedArray(buffer.slice(start, end))};
  }
  layers.forEach((layer, i) => { layer.maximum = maximum(arrays[`most_${i}`].values); });
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
  const selectedKey = keyAt(position, selectedLayer());
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

// Return the position to select first on the current image.
function openingPosition() {
  const layer = selectedLayer(), images = arrays[view.network];
  const ink = inkAt(images.values, offset(images, view.snapshot, view.image), imageShape(), layer.positions);
  return sharpestPosition(ink, layer, position => rowWeights(view.snapshot, position));
}

// Return the weight that is drawn in the brightest colour.
function scaleMaximum(weights) {
  const top = view.scale === 'all' ? selectedLayer().maximum : maximum(weights);
  return top > 0 ? top : 1;
}

// ---- Drawing

// Draw an image of the selected network. Return the context of the canvas.
function drawRecordedImage(canvas, snapshot, image, scale, grey) {
  const start = offset(arrays[view.network], snapshot, image);
  const key = [view.network, start, grey].join();
  imageCache[key] ??= paintImage(arrays[view.network].values, start, imageShape(), grey);
  return drawImage(canvas, imageCache[key], scale);
}

// Draw the map of the selected position over a grey version of the image. Return the context of the canvas.
function drawRecordedMap(canvas, snapshot, weights, scale) {
  const context = drawRecordedImage(canvas, snapshot, view.image, scale, true);
  drawMap(context, weights, scaleMaximum(weights), mapGrid(), selectedLayer().positions);
  return context;
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

// Epoch 0 means that the epoch is unknown.
function snapshotName(i) {
  const {epoch, step} = snapshots[i];
  return epoch ? `epoch ${epoch}` : `step ${step}`;
}

function renderText(weights) {
  const {positions, keys} = selectedLayer();
  const position = cellName(view.position, positions, positions);
  const key = cellName(keyAt(view.position, selectedLayer()), keys, positions);
  const real = view.network === 'discriminator' && snapshots[view.snapshot].real;

  element('image-title').textContent = `${view.held ? 'Held' : 'Position'}: ${position}`;
  element('image-note').textContent = `${real ? 'Real test image' : 'Generated image'}, ` +
    `${positions.join(' × ')} positions, ${product(keys)} keys`;
  element('map-title').textContent =
    view.direction === 'looks' ? `Where ${position} looks` : `What looks at ${key}`;
  element('status').textContent = `${snapshotName(view.snapshot)}, ${view.network}${view.held ? ', held' : ''}: ` +
    largestWeight(position, key, weights);
  listWeights(element('top'), weights, mapGrid(), positions);
  element('omitted').textContent = omittedWeights();
}

// Describe the largest weight.
function largestWeight(position, key, weights) {
  const [cell] = largestCells(weights);
  if (cell === undefined) {
    return `all recorded weights ${view.direction === 'looks' ? `of ${position}` : `on ${key}`} are 0`;
  }
  const name = cellName(cell, mapGrid(), selectedLayer().positions), weight = percent(weights[cell]);
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
  const [height] = imageShape(), {positions, keys} = selectedLayer();
  const imageScale = scaleFor(IMAGE_HEIGHT, height), thumbnailScale = scaleFor(THUMBNAIL_HEIGHT, height);
  const weights = mapWeights(view.snapshot, view.position), top = scaleMaximum(weights);

  const image = drawRecordedImage(element('image'), view.snapshot, view.image, imageScale, false);
  drawGridLines(image, positions);
  drawFrame(image, view.position, positions);
  drawFrame(drawRecordedMap(element('map'), view.snapshot, weights, imageScale), view.position, positions);
  element('scale-max').textContent = percent(top);
  markUniform(element('uniform'), 1 / product(keys), top);
  [...element('strip').children].forEach((button, i) => {
    drawRecordedMap(button.firstChild, i, mapWeights(i, view.position), thumbnailScale);
    button.setAttribute('aria-pressed', i === view.snapshot);
  });
  [...element('images').children].forEach(
    (label, i) => drawRecordedImage(label.lastChild, view.snapshot, i, 1, false));
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
  if (selectedLayer().positions.join() !== positions) change({position: openingPosition()});
}

function changeNetwork(network) {
  if (networks.includes(network)) changeLayer({network});
}

function movePosition(rows, columns) {
  const {positions} = selectedLayer();
  const [row, column] = rowAndColumn(view.position, positions);
  const position = cellAt(row + rows, column + columns, positions);
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
  const [row, column] = rowAndColumn(view.position, selectedLayer().positions);
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
  change({position: cellAt(row, column, selectedLayer().positions) ?? openingPosition()});
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
  return cellUnder(event, element('image'), selectedLayer().positions);
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
  drawColourScale(element('colour-scale'));
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
    showError(error);
  }
}

start();
