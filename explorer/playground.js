// The playground. It uses maps.js and drawing.js. playground.py writes the metadata, and graph.js runs the networks
// in a worker.
'use strict';

const LISTED_TERMS = 3;  // of the formula
const ERASER_SCALE = 3;  // times the width of the pen
const SURFACE_HEIGHT = 224;  // pixels of the surface to draw on, approximately
const SEEDS = 1e6;
const Z_RANGE = {uniform: 1, normal: 3};
const PEN_UP = '#fff', PEN_DOWN = '#ffd400';  // of the cursor
const BRIGHTER = [255, 150, 30], DARKER = [70, 150, 255];  // of the difference

const playground = JSON.parse(element('playground').textContent);
const [height, width, channels] = playground.image_shape;
const conditional = playground.class_names.length > 0;

// ---- The two sides

// A side is a network with its input and its results. Inputs, lists of gammas and results are replaced, never modified
// in place. A result is current if it refers to the input and the list of gammas of its side.
function makeSide(network) {
  const root = element(network), layers = playground.layers[network];
  return {
    network, layers, find: css => root.querySelector(css), findAll: css => [...root.querySelectorAll(css)],
    input: null,  // {z or pixels, label}
    gammas: layers.map(layer => layer.gamma),
    pending: null,  // the request that the worker computes
    result: null,  // {input, gammas, pixels, maps, output, finite}
    without: null,  // the same with all gammas at 0
    layer: 0, position: null, held: false, show: 'position'};
}

const generator = makeSide('generator'), discriminator = makeSide('discriminator');
const sides = {generator, discriminator};

const walk = {start: null, end: null};  // the kept z

function selectedLayer(side) {
  return side.layers[side.layer];
}

// Change a side. Compute what it needs at once and draw it in the next frame.
function change(side, values) {
  Object.assign(side, values);
  compute(side);
  scheduleFrame(side);
}

function changeInput(side, values) {
  change(side, {input: {...side.input, ...values}});
}

// ---- The worker

let worker = null;

// Request what is missing. While a request is pending, newer inputs replace older ones.
function compute(side) {
  if (side.pending || !side.input) return;
  const {input, gammas, result, without} = side;
  if (result?.input !== input || result.gammas !== gammas) request(side, {input, gammas, name: 'result'});
  else if (side.layers.length > 0 && without?.input !== input)
    request(side, {input, gammas: gammas.map(() => 0), name: 'without'});
}

function request(side, pending) {
  side.pending = pending;
  const kind = side === generator ? 'generate' : 'judge';
  worker.postMessage({kind, id: side.network, ...pending.input, gammas: pending.gammas});
}

function receive({data}) {
  if (data.kind === 'error') {
    showError(data);
    return;
  }
  const side = sides[data.id], {input, gammas, name} = side.pending;
  side.pending = null;
  const finite = [...data.maps, data.pixels ?? [data.output]].every(values => values.every(Number.isFinite));
  side[name] = {input, gammas, pixels: data.pixels ?? input.pixels, maps: data.maps, output: data.output, finite};
  if (side.position === null && side.layers.length > 0 && finite) side.position = openingPosition(side);
  change(side, {});
}

// Start the worker with both networks.
async function startWorker() {
  const weights = await decompress(element('weights').textContent);
  const text = element('worker').textContent;
  worker = new Worker(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})));
  await new Promise((resolve, reject) => {
    worker.onerror = reject;
    worker.onmessage = ({data}) => data.kind === 'ready' ? resolve() : reject(data);
    worker.postMessage({kind: 'load', graph: playground.graph, weights}, [weights]);
  });
  worker.onmessage = receive;
  worker.onerror = showError;
}

// ---- Attention maps

// Return the row of the attention map: the weight that a position gives to each key.
function rowWeights(side, position) {
  const keys = product(selectedLayer(side).keys);
  return side.result.maps[side.layer].subarray(position * keys, (position + 1) * keys);
}

// Return the average row of the attention map.
function averageWeights(side) {
  const {positions, keys} = selectedLayer(side), map = side.result.maps[side.layer];
  const weights = new Float32Array(product(keys));
  map.forEach((weight, i) => { weights[i % weights.length] += weight / product(positions); });
  return weights;
}

// Return the position that is selected first.
function openingPosition(side) {
  const layer = selectedLayer(side), ink = inkAt(side.result.pixels, 0, playground.image_shape, layer.positions);
  return sharpestPosition(ink, layer, position => rowWeights(side, position));
}

function changeLayer(side, layer) {
  const {positions} = selectedLayer(side);
  change(side, {layer});
  if (selectedLayer(side).positions.join() !== positions.join())
    change(side, {position: side.result?.finite ? openingPosition(side) : null});
}

function renderMap(side) {
  const {positions, keys} = selectedLayer(side);
  const weights = side.show === 'position' ? rowWeights(side, side.position) : averageWeights(side);
  const top = maximum(weights), name = cellName(side.position, positions, positions);
  const context = drawImage(side.find('.map'), paintPixels(side.result.pixels, true), scaleFor(IMAGE_HEIGHT, height));
  drawMap(context, weights, top, keys, positions);
  if (side.show === 'position') drawFrame(context, side.position, positions);
  side.find('.scale-max').textContent = percent(top);
  markUniform(side.find('.uniform'), 1 / product(keys), top);

  const [cell] = largestCells(weights);
  const subject = side.show === 'position' ? name : 'on average, a position';
  side.find('.map-title').textContent =
    side.show === 'position' ? `Where ${name} looks${side.held ? ' (held)' : ''}` : 'Where all positions look';
  side.find('.status').textContent =
    `${subject} looks most at ${cellName(cell, keys, positions)} (${percent(weights[cell])})`;
  side.find('.map').setAttribute('aria-label', `Attention map: ${side.find('.status').textContent}`);
  listWeights(side.find('.top'), weights, keys, positions);
  renderFormula(side);
}

// Show the formula of the layer with the values at the selected position.
function renderFormula(side) {
  const {positions, keys, block} = selectedLayer(side), gamma = side.result.gammas[side.layer];
  const weights = rowWeights(side, side.position);
  const cells = largestCells(weights).slice(0, LISTED_TERMS).filter(cell => weights[cell] >= 0.0005);
  const rest = weights.length - cells.length;
  const sum = cells.reduce((total, cell) => total + weights[cell], 0);
  const terms = cells.map(cell => `${weights[cell].toFixed(3)} h(${cellName(cell, keys, positions)})`);
  if (rest > 0) terms.push(`${rest} terms with a total weight of ${Math.max(0, 1 - sum).toFixed(3)}`);
  const here = cellName(side.position, positions, positions), convolution = block === 'paper' ? 'W ' : '';
  side.find('.general').textContent = `y = x + γ · ${convolution}Σ β h. Here, x and y are the input and output ` +
    'of the layer at this position, and h is the value at a key. The weights β are a softmax over all keys' +
    `${block === 'paper' ? ', and W is a 1×1 convolution' : ''}. At this position:`;
  side.find('.formula').textContent = `y(${here}) = x(${here}) ${gamma < 0 ? '−' : '+'} ` +
    `${Math.abs(gamma).toFixed(3)} · ${convolution}[ ${terms.join(' + ')} ]`;
}

// ---- Images

// Return a canvas with pixels from 0 to 1.
function paintPixels(pixels, grey) {
  return paintImage(Uint8ClampedArray.from(pixels, value => 255 * value), 0, playground.image_shape, grey);
}

function drawPixels(canvas, pixels, canvasHeight) {
  return drawImage(canvas, paintPixels(pixels, false), scaleFor(canvasHeight, height));
}

// Return the change in brightness of each pixel from one image to another.
function brightnessChange(before, after) {
  return Float32Array.from({length: height * width}, (_, i) => {
    let sum = 0;
    for (let channel = i * channels; channel < (i + 1) * channels; channel++) sum += after[channel] - before[channel];
    return sum / channels;
  });
}

function renderComparison() {
  const {result, without} = generator;
  const stale = without?.input !== result.input || !without.finite;
  for (const id of ['without', 'difference']) element(id).classList.toggle('stale', stale);
  if (stale) return;
  const changes = brightnessChange(without.pixels, result.pixels), top = maximum(changes.map(Math.abs));
  drawPixels(element('without'), without.pixels, THUMBNAIL_HEIGHT);
  const painted = paint(height, width, i =>
    (changes[i] > 0 ? BRIGHTER : DARKER).map(value => top > 0 ? value * Math.abs(changes[i]) / top : 0));
  drawImage(element('difference'), painted, scaleFor(THUMBNAIL_HEIGHT, height));
  element('difference-note').textContent = top > 0 ?
    `The largest change is ${percent(top)} of the range from black to white.` : 'No pixel changes.';
}

// ---- Drawing in the next frame

let drawingChanged = false;  // the drawing was changed, but not read yet
const changedSides = new Set();

function scheduleFrame(side) {
  if (changedSides.size === 0) requestAnimationFrame(renderChanges);
  changedSides.add(side);
}

function renderChanges() {
  if (drawingChanged) {
    drawingChanged = false;
    changeInput(discriminator, {pixels: readDrawing()});
  }
  const changed = [...changedSides];
  changedSides.clear();
  changed.forEach(renderSide);
}

function renderSide(side) {
  if (side === discriminator) renderDrawing();
  if (!side.result) return;
  side.findAll('.gammas output').forEach((output, i) => { output.textContent = side.gammas[i].toFixed(3); });
  if (conditional) side.find(`.classes input[value="${side.input.label}"]`).checked = true;
  side.find('.not-finite').hidden = side.result.finite;
  if (!side.result.finite) return;
  if (side === generator) renderGenerated();
  else renderOutput();
  if (side.layers.length > 0) renderMap(side);
}

function renderGenerated() {
  const {input, pixels} = generator.result;
  const context = drawPixels(generator.find('.image'), pixels, IMAGE_HEIGHT);
  if (generator.layers.length > 0) {
    drawGridLines(context, selectedLayer(generator).positions);
    drawFrame(context, generator.position, selectedLayer(generator).positions);
    renderComparison();
  }
  for (const [end, z] of Object.entries(walk))
    if (input.z === z) drawPixels(element(`${end}-image`), pixels, THUMBNAIL_HEIGHT);
  renderCoordinates();
}

function renderDrawing() {
  const {input, position} = discriminator;
  const context = drawPixels(element('drawing'), input.pixels, IMAGE_HEIGHT);
  if (position !== null) drawFrame(context, position, selectedLayer(discriminator).positions);
  if (cursor) drawCursor(context, cursor.map(coordinate => coordinate * context.canvas.width / ink.canvas.width));
}

// Draw a cross at a point. Its colour shows whether the pen is down.
function drawCursor(context, [x, y]) {
  const arm = context.canvas.width / 20;
  for (const [colour, lineWidth] of [['#000', 6], [penDown ? PEN_DOWN : PEN_UP, 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = lineWidth;
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
    context.stroke();
  }
}

function renderOutput() {
  const {result, without} = discriminator, isProbability = playground.output === 'probability';
  const format = output => output.toFixed(isProbability ? 3 : 2);
  element('output').textContent =
    `${isProbability ? 'Probability that the image is real' : 'Output'}: ${format(result.output)}`;
  element('output-help').hidden = isProbability;
  element('probability').hidden = !isProbability;
  if (isProbability) element('probability').value = result.output;
  if (without?.input === result.input && without.finite)
    element('output-note').textContent = `Without attention: ${format(without.output)}.`;
}

// ---- Selecting a position

function movePosition(side, rows, columns) {
  const {positions} = selectedLayer(side);
  const [row, column] = rowAndColumn(side.position, positions);
  const position = cellAt(row + rows, column + columns, positions);
  if (position !== undefined) change(side, {position});
}

const ARROWS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

function handleCanvasKey(side, event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (ARROWS[event.key]) movePosition(side, ...ARROWS[event.key]);
  else if (event.key === 'Enter') change(side, {held: !side.held});
  else return;
  event.preventDefault();
}

function positionUnder(side, canvas, event) {
  return cellUnder(event, canvas, selectedLayer(side).positions);
}

// Select the position under the pointer on a canvas, unless a position is held.
function followPointer(side, canvas) {
  canvas.addEventListener('pointermove', event => {
    const position = positionUnder(side, canvas, event);
    if (!side.held && position !== side.position) change(side, {position});
  });
}

// Let the pointer and the keys select positions on a canvas.
function selectOn(side, canvas) {
  followPointer(side, canvas);
  canvas.addEventListener('click', event => {
    const position = positionUnder(side, canvas, event);
    change(side, {position, held: !side.held || position !== side.position});
  });
  canvas.addEventListener('keydown', event => handleCanvasKey(side, event));
}

// ---- Generator: z

// Return a function that returns random numbers from 0 to 1: Mulberry32 by Tommy Ettinger.
function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6D2B79F5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

function drawZ(seed) {
  const random = randomNumbers(seed);
  const uniform = () => 2 * random() - 1;
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());  // Box-Muller
  return Float32Array.from({length: playground.z_dim}, playground.z_name === 'normal' ? normal : uniform);
}

function changeZ(z, note) {
  element('sample-note').textContent = note;
  changeInput(generator, {z});
}

function showSample(seed) {
  element('seed').value = seed;
  changeZ(drawZ(seed), `z from seed ${seed}`);
}

function changeCoordinate(coordinate, value) {
  const z = generator.input.z.slice();
  z[coordinate] = value;
  const note = element('sample-note').textContent;
  changeZ(z, note.endsWith('changed') ? note : `${note}, changed`);
}

function keepSample(end) {
  walk[end] = generator.input.z;
  element('walk').disabled = !walk.start || !walk.end;
  element('walk').value = end === 'start' ? 0 : 100;
  scheduleFrame(generator);
}

function walkTo(percentage) {
  const way = percentage / 100;
  const z = walk.start.map((value, i) => (1 - way) * value + way * walk.end[i]);
  changeZ(z, `z at ${percentage}% of the way from start to end`);
}

function coordinateRows() {
  return [...element('coordinates').children].map(row => {
    const number = row.querySelector('input[type=number]');
    const coordinate = Number(number ? number.value : row.dataset.coordinate);
    return {coordinate, slider: row.querySelector('input[type=range]'), output: row.querySelector('output')};
  });
}

function renderCoordinates() {
  for (const {coordinate, slider, output} of coordinateRows()) {
    const value = generator.input.z[coordinate];
    slider.value = value;
    slider.setAttribute('aria-label', `z[${coordinate}]`);
    output.textContent = value.toFixed(2);
  }
}

// ---- Discriminator: the drawing

// The surface has several pixels per pixel of the image, so that strokes get grey edges as in MNIST.
const surfaceScale = scaleFor(SURFACE_HEIGHT, height);
const ink = makeSurface(height * surfaceScale, width * surfaceScale);
// Images of 32 pixels have a wider border than those of MNIST, but digits of the same size.
const mnistPixel = surfaceScale * (height === 32 ? 1 : height / 28);
const blank = channels === 1 ? '#000' : '#fff';

// Change the drawing. It is read and judged in the next frame.
function changeDrawing(draw, ...options) {
  draw(ink, ...options);
  drawingChanged = true;
  scheduleFrame(discriminator);
}

function readDrawing() {
  return readPixels(ink, surfaceScale, channels);
}

// Replace the drawing with an image, and judge the image as this class.
function replaceDrawing(image, label) {
  ink.imageSmoothingEnabled = false;
  ink.drawImage(image, 0, 0, ink.canvas.width, ink.canvas.height);
  change(discriminator, {input: {pixels: readDrawing(), label}});
}

function drawStroke(from, to, erase) {
  const colour = channels === 1 ? '#fff' : element('colour').value, lineWidth = STROKE_WIDTH * mnistPixel;
  if (erase) changeDrawing(drawLine, from, to, blank, ERASER_SCALE * lineWidth);
  else changeDrawing(drawLine, from, to, colour, lineWidth);
}

function eraserSelected() {
  return document.querySelector('input[name=tool]:checked').value === 'eraser';
}

// ---- Discriminator: drawing with the keyboard

let cursor = null;  // the point of the surface to which the arrow keys have moved the pen, or null if they are not used
let penDown = false;  // whether the arrow keys draw

// Return the point from which the arrow keys start: the centre of the selected position or of the drawing.
function firstCursor() {
  const {layers, position} = discriminator;
  const positions = layers.length > 0 ? selectedLayer(discriminator).positions : [1, 1];
  const [row, column] = rowAndColumn(position ?? 0, positions);
  return [(column + 0.5) * ink.canvas.width / positions[1], (row + 0.5) * ink.canvas.height / positions[0]];
}

// Move the pen. It draws if it is down, and selects the position under it, as the pointer does.
function moveCursor(rows, columns) {
  const from = cursor ?? firstCursor(), {width: right, height: bottom} = ink.canvas;
  cursor = [clamp(from[0] + columns * mnistPixel, right + 1), clamp(from[1] + rows * mnistPixel, bottom + 1)];
  if (penDown) drawStroke(from, cursor, eraserSelected());
  if (discriminator.layers.length > 0 && !discriminator.held) {
    const [gridRows, gridColumns] = selectedLayer(discriminator).positions;
    const row = clamp(Math.floor(cursor[1] / bottom * gridRows), gridRows);
    const column = clamp(Math.floor(cursor[0] / right * gridColumns), gridColumns);
    change(discriminator, {position: row * gridColumns + column});
  }
  showCursor();
}

// Lower or lift the pen. Lowering it draws a point.
function togglePen() {
  cursor ??= firstCursor();
  penDown = !penDown;
  if (penDown) drawStroke(cursor, cursor, eraserSelected());
  showCursor();
}

function liftPen() {
  penDown = false;
  showCursor();
}

function hideCursor() {
  cursor = null;
  liftPen();
}

function showCursor() {
  element('cursor-note').hidden = !cursor;
  if (cursor) {
    const [x, y] = cursor.map(coordinate => Math.round(coordinate / surfaceScale));
    const state = penDown ? 'down: arrow keys draw, Space lifts it' : 'up: Space lowers it';
    element('cursor-note').textContent = `Pen at x ${x}, y ${y}, ${state}.`;
  }
  scheduleFrame(discriminator);
}

function handleDrawingKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (ARROWS[event.key]) moveCursor(...ARROWS[event.key]);
  else if (event.key === ' ' && !event.repeat) togglePen();
  else if (event.key === 'Enter') change(discriminator, {held: !discriminator.held});
  else if (event.key !== ' ') return;
  event.preventDefault();
}

// ---- Discriminator: drawing with a mouse, a finger or a pen

function listenForStrokes(canvas) {
  let last = null;
  const pointOf = event => {
    const shown = canvas.getBoundingClientRect();
    return [(event.clientX - shown.left) * ink.canvas.width / shown.width,
            (event.clientY - shown.top) * ink.canvas.height / shown.height];
  };
  const continueStroke = event => {
    const point = pointOf(event), penEraser = (event.buttons & 32) !== 0;  // the eraser end of a pen
    drawStroke(last, point, penEraser || eraserSelected());
    last = point;
  };
  canvas.addEventListener('pointerdown', event => {
    if (!event.isPrimary || event.button === 1 || event.button === 2) return;
    canvas.setPointerCapture(event.pointerId);
    hideCursor();
    last = pointOf(event);
    continueStroke(event);
  });
  canvas.addEventListener('pointermove', event => {
    if (last && event.isPrimary) continueStroke(event);
  });
  for (const type of ['pointerup', 'pointercancel']) canvas.addEventListener(type, () => { last = null; });
}

// ---- Discriminator: images to start from

function startFromSample(index) {
  replaceDrawing(sampleCanvas(index), conditional ? playground.samples.labels[index] : null);
}

let sampleBytes;  // the pixels of all test images

function sampleCanvas(index) {
  return paintImage(sampleBytes, index * height * width * channels, playground.image_shape, false);
}

function startFromGenerated() {
  if (!generator.result?.finite) return;
  replaceDrawing(paintPixels(generator.result.pixels, false), generator.result.input.label);
}

async function startFromFile(file) {
  element('file-error').hidden = true;
  try {
    const image = await readImageFile(file, ink.canvas.height, ink.canvas.width);
    if (channels === 1) toGrey(image);
    replaceDrawing(image.canvas, discriminator.input.label);
  } catch (error) {
    element('file-error').textContent = `The file cannot be opened (${error.message}): choose another image`;
    element('file-error').hidden = false;
  }
}

// ---- Building the page

function fromTemplate(id) {
  return element(id).content.cloneNode(true);
}

function buildClasses(side) {
  side.find('.classes').replaceChildren(...playground.class_names.map((name, label) => {
    const input = document.createElement('input');
    Object.assign(input, {type: 'radio', name: `${side.network}-class`, value: label});
    input.addEventListener('change', () => changeInput(side, {label}));
    const item = document.createElement('label');
    item.append(input, name);
    return item;
  }));
}

function buildAttention(side) {
  const field = side.find('.attention-field');
  field.append(fromTemplate('attention-template'));
  side.find('.views').append(fromTemplate('map-template'));
  side.find('.findings').prepend(fromTemplate('weights-template'));
  field.querySelector('.layer-field').hidden = side.layers.length === 1;
  field.querySelector('.layer-help').hidden = side.layers.length === 1;
  const select = field.querySelector('.layer');
  select.append(...side.layers.map((layer, i) => new Option(`${i + 1}: ${layer.positions.join(' × ')}`, i)));
  select.addEventListener('change', () => changeLayer(side, Number(select.value)));
  for (const input of field.querySelectorAll('input[type=radio]')) {
    input.name = `${side.network}-show`;
    input.addEventListener('change', () => change(side, {show: input.value}));
  }
  side.layers.forEach((layer, i) => field.querySelector('.gammas').append(buildGamma(side, layer, i)));
  drawColourScale(side.find('.colour-scale'));
  if (side === generator) selectOn(side, side.find('.image'));
  else followPointer(side, element('drawing'));  // a click there draws instead of holding the position
  selectOn(side, side.find('.map'));
}

// The slider shows multiples of the trained gamma, which may be negative. An untrained layer has gamma 0.
function buildGamma(side, layer, i) {
  const part = fromTemplate('gamma-template');
  const slider = part.querySelector('input'), [off, trained] = part.querySelectorAll('button');
  const unit = layer.gamma === 0 ? 1 : layer.gamma;
  if (layer.gamma === 0) part.querySelector('.marks span').textContent = '2';
  const set = value => {
    slider.value = value;
    slider.setAttribute('aria-valuetext', `gamma ${(value * unit).toFixed(3)}`);
    change(side, {gammas: side.gammas.map((gamma, j) => j === i ? value * unit : gamma)});
  };
  const name = side.layers.length === 1 ? 'Gamma' : `Gamma of layer ${i + 1} (${layer.positions.join(' × ')})`;
  part.querySelector('.gamma-name').textContent = `${name}:`;
  slider.setAttribute('aria-label', name);
  slider.value = layer.gamma === 0 ? 0 : 1;
  trained.textContent = `trained: ${layer.gamma.toFixed(3)}`;
  slider.addEventListener('input', () => set(Number(slider.value)));
  off.addEventListener('click', () => set(0));
  trained.addEventListener('click', () => set(layer.gamma === 0 ? 0 : 1));
  return part;
}

// Without attention, there are no positions to select on the generated image.
function describeImage(canvas) {
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', 'Generated image');
  for (const name of ['tabindex', 'aria-describedby']) canvas.removeAttribute(name);
}

function buildCoordinates() {
  const {coordinates, z_dim: zDim, z_name: zName} = playground;
  const others = [...Array(zDim).keys()].filter(coordinate => !coordinates.includes(coordinate));
  for (const coordinate of others.length > 0 ? [...coordinates, null] : coordinates) {
    const part = fromTemplate('coordinate-template'), row = part.firstElementChild;
    const slider = row.querySelector('input');
    slider.min = -Z_RANGE[zName];
    slider.max = Z_RANGE[zName];
    if (coordinate === null) {
      const number = document.createElement('input');
      Object.assign(number, {type: 'number', min: 0, max: zDim - 1, value: others[0]});
      number.setAttribute('aria-label', 'Coordinate of z');
      number.addEventListener('change', () => {
        number.value = clamp(Math.round(Number(number.value)), zDim);
        scheduleFrame(generator);
      });
      row.firstElementChild.replaceWith(number);
    } else {
      row.dataset.coordinate = coordinate;
      row.firstElementChild.textContent = `z[${coordinate}]`;
    }
    element('coordinates').append(part);
  }
  coordinateRows().forEach(({slider}, i) =>
    slider.addEventListener('input', () => changeCoordinate(coordinateRows()[i].coordinate, Number(slider.value))));
}

function buildSamples() {
  element('samples').hidden = playground.samples.count === 0;
  for (let i = 0; i < playground.samples.count; i++) {
    const button = document.createElement('button'), label = playground.samples.labels[i];
    const name = conditional ? `, ${playground.class_names[label]}` : '';
    button.type = 'button';
    button.setAttribute('aria-label', `Test image ${i + 1}${name}`);
    button.append(sampleCanvas(i));
    button.addEventListener('click', () => startFromSample(i));
    element('samples').append(button);
  }
}

function buildPage() {
  const {run, step, z_dim: zDim} = playground;
  document.title = `Playground: ${run}`;
  element('title').textContent = run;
  element('contents').textContent = `Training step ${step}. Images: ${playground.image_shape.join(' × ')}.`;
  element('z-dim').textContent = zDim;
  element('colour-field').hidden = channels === 1;
  element('centre').hidden = channels !== 1;
  for (const id of ['shortcuts', 'attention-help']) {
    element(id).hidden = Object.values(sides).every(side => side.layers.length === 0);
  }
  for (const field of document.querySelectorAll('.class-field')) field.hidden = !conditional;
  for (const side of Object.values(sides)) {
    for (const part of side.findAll('.with-attention')) part.hidden = side.layers.length === 0;
    if (side.layers.length > 0) buildAttention(side);
    else if (side === generator) describeImage(side.find('.image'));
    if (conditional) buildClasses(side);
  }
  buildCoordinates();
  buildSamples();
}

function addListeners() {
  element('new-sample').addEventListener('click', () => showSample(Math.floor(SEEDS * Math.random())));
  element('seed').addEventListener('change', ({target}) => showSample(clamp(Math.trunc(Number(target.value)), SEEDS)));
  element('keep-start').addEventListener('click', () => keepSample('start'));
  element('keep-end').addEventListener('click', () => keepSample('end'));
  element('walk').addEventListener('input', event => walkTo(Number(event.target.value)));
  element('clear').addEventListener('click', () => changeDrawing(fillSurface, blank));
  element('centre').addEventListener('click', () => changeDrawing(centreDigit, mnistPixel));
  element('invert').addEventListener('click', () => changeDrawing(invert));
  element('use-generated').addEventListener('click', startFromGenerated);
  element('file').addEventListener('change', ({target}) => {
    if (target.files.length > 0) startFromFile(target.files[0]);
  });
  document.addEventListener('keydown', ({key}) => {
    if (key === 'Escape') Object.values(sides).forEach(side => change(side, {held: false}));
  });
  listenForStrokes(element('drawing'));
  element('drawing').addEventListener('keydown', handleDrawingKey);
  element('drawing').addEventListener('blur', liftPen);
}

async function start() {
  try {
    await startWorker();
    sampleBytes = new Uint8Array(await decompress(playground.samples.images));
    buildPage();
    document.querySelector('main').hidden = false;
    addListeners();
    const label = conditional ? 0 : null;
    generator.input = {label};
    showSample(0);
    fillSurface(ink, blank);
    if (playground.samples.count > 0) startFromSample(0);
    else change(discriminator, {input: {pixels: readDrawing(), label}});
  } catch (error) {
    showError(error);
  }
}

start();
