// The page of the attention maps. explorer.py says how a map is noted, and writes facts and data into the page.
'use strict';

const find = id => document.getElementById(id);
const product = sizes => sizes.reduce((all, size) => all * size, 1);
const facts = JSON.parse(find('facts').textContent);
const painted = {};  // images as canvases, by name
const arrays = {};  // {name: {at, shape, values}}, where at(epoch, ...) is the place of an entry in values
const START = {network: facts.layers[0].network, layer: 0, image: 0, epoch: facts.epochs.length - 1, place: 0,
               held: false, by: 'looks', scale: 'own'}, view = {...START};
const TYPES = {uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array};
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
                 [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const OPACITY = 0.75, MARK = '#ff5fa2';  // of the map over the image; of the frame, no colour of the scale

// ---- Data
async function readData() {
  const packed = Uint8Array.from(atob(find('data').textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const buffer = await new Response(stream).arrayBuffer();
  for (const [name, {type, start, shape}] of Object.entries(facts.arrays)) {
    const values = new TYPES[type](buffer.slice(start, start + product(shape) * TYPES[type].BYTES_PER_ELEMENT));
    // What is the same at all epochs is there once.
    const at = (epoch, ...rest) => product(shape.slice(rest.length + 1)) *
      [epoch % shape[0], ...rest].reduce((sum, i, axis) => sum * shape[axis] + i, 0);
    arrays[name] = {at, shape, values};
  }
}

const layersOf = network => facts.layers.map((layer, number) => ({...layer, number})).filter(
  layer => layer.network === network);
const layer = () => layersOf(view.network)[view.layer];
const largest = values => values.reduce((most, value) => Math.max(most, value), 0);
const imageShape = () => arrays[view.network].shape.slice(2);  // [H, W, C]
const partial = () => `rest_${layer().number}` in arrays;
const nameOf = ({epoch, step}) => epoch ? `epoch ${epoch}` : `step ${step}`;

// What of the map is shown for a place: its row, the share that it gives to each key, [M], or its column, the share
// that each place gives to its key, [N] -> {grid, shares, size}; size: height and width of a cell in pixels.
function shown(epoch, place) {
  const {number, positions, keys: grid} = layer(), [height, width] = imageShape(), looked = view.by === 'looked';
  const {at, shape, values} = arrays[`shares_${number}`], kept = arrays[`keys_${number}`], count = shape[3];
  const most = arrays[`most_${number}`], key = keyAt(place);
  const unit = other => most.values[most.at(epoch, view.image, other)] / 255;
  const shares = new Float32Array(product(looked ? positions : grid));
  for (let other = looked ? 0 : place; other < (looked ? shares.length : place + 1); other++) {
    const start = at(epoch, view.image, other);
    for (let i = 0; i < count; i++) {
      const found = kept ? kept.values[start + i] : i;
      if (!looked || found === key) shares[looked ? other : found] = values[start + i] * unit(other);
    }
  }
  const size = [height / positions[0], width / positions[1]];
  return looked ? {grid: positions, shares, size} :
    {grid, shares, size: size.map((side, axis) => side * pooling(axis))};
}

const pooling = axis => Math.ceil(layer().positions[axis] / layer().keys[axis]);
function keyAt(place) {
  const {positions: [, width], keys} = layer();
  return Math.floor(place / width / pooling(0)) * keys[1] + Math.floor(place % width / pooling(1));
}

// ---- Drawing
function colour(part) {
  const at = Math.min(Math.max(part || 0, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), 7);
  return VIRIDIS[low].map((value, i) => Math.round(value + (at - low) * (VIRIDIS[low + 1][i] - value)));
}

// A canvas of height x width pixels, each in the colour [red, green, blue] that colourOf(its number) gives.
function paint([height, width], colourOf) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) pixels.data.set([...colourOf(i), 255], 4 * i);
  const canvas = Object.assign(document.createElement('canvas'), {width, height});
  canvas.getContext('2d').putImageData(pixels, 0, 0);
  return canvas;
}

// An image on a canvas, each pixel as a square of that scale; grey: without colour. -> the canvas's context
function drawImage(canvas, epoch, image, scale, grey) {
  const [height, width, channels] = imageShape(), {at, values} = arrays[view.network], start = at(epoch, image);
  const name = [view.network, start, grey].join();
  painted[name] ||= paint([height, width], i => {
    const rgb = [0, 1, 2].map(c => values[start + i * channels + c % channels]);
    return grey ? rgb.fill((rgb[0] + rgb[1] + rgb[2]) / 3) : rgb;
  });
  Object.assign(canvas, {width: width * scale, height: height * scale});
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(painted[name], 0, 0, canvas.width, canvas.height);
  return context;
}

function drawMap(canvas, epoch, place, scale, top) {
  const {grid, shares, size} = shown(epoch, place), context = drawImage(canvas, epoch, view.image, scale, true);
  context.globalAlpha = OPACITY;
  const [height, width] = size.map((side, axis) => side * grid[axis] * scale);
  context.drawImage(paint(grid, i => colour(shares[i] / top)), 0, 0, width, height);
  context.globalAlpha = 1;
  return context;
}

function frame(context, place, scale) {
  const {positions} = layer(), [height, width] = imageShape();
  const size = [height / positions[0] * scale, width / positions[1] * scale];
  const [y, x] = [Math.floor(place / positions[1]) * size[0], place % positions[1] * size[1]];
  for (const [ink, thick] of [['#000', 5], [MARK, 3]]) {
    Object.assign(context, {strokeStyle: ink, lineWidth: thick});
    context.strokeRect(x + 2, y + 2, Math.max(size[1] - 4, 2), Math.max(size[0] - 4, 2));
  }
}

function drawGrid(context, scale) {
  const {positions} = layer(), {width, height} = context.canvas;
  if (Math.max(...positions) > 32) return;
  Object.assign(context, {fillStyle: '#666', globalCompositeOperation: 'difference'});  // seen on light and dark
  for (let i = 1; i < positions[0]; i++) context.fillRect(0, i * height / positions[0] - 1, width, 2);
  for (let j = 1; j < positions[1]; j++) context.fillRect(j * width / positions[1] - 1, 0, 2, height);
  context.globalCompositeOperation = 'source-over';
}

function drawLegend(top) {
  const bar = paint([2, 256], i => colour(i % 256 / 255).map(
    value => OPACITY * value + (1 - OPACITY) * (i < 256 ? 0 : 255)));
  Object.assign(find('legend'), {width: 256, height: 2}).getContext('2d').drawImage(bar, 0, 0);
  const even = 1 / product(layer().keys), at = Math.min(even / top, 1);
  find('largest').textContent = percent(top);
  find('even').textContent = (at > 0.5 ? 'evenly spread: ' : '↑ evenly spread: ') + percent(even) +
    (even > top ? ', beyond this scale' : at > 0.5 ? ' ↑' : '');
  Object.assign(find('even').style, at > 0.5 ? {left: '', right: `${100 - 100 * at}%`} :
    {left: `${100 * at}%`, right: ''});
}

function drawGamma() {
  const gammas = layer().gamma, low = Math.min(0, ...gammas), high = Math.max(0, ...gammas, low + 1e-3);
  const right = find('gamma').clientWidth - 20, x = i => 60 + (right - 60) * i / Math.max(gammas.length - 1, 1);
  const y = value => 125 - 110 * (value - low) / (high - low);
  const marks = [0, low, high].filter((value, i) => !i || Math.abs(y(value) - y(0)) > 14).map(value =>
    `<line class="axis" x1="60" x2="${right}" y1="${y(value)}" y2="${y(value)}"/>` +
    `<text x="54" y="${y(value) + 4}" text-anchor="end">${value.toFixed(3)}</text>`);
  const ends = [...new Set([0, gammas.length - 1])].map(i => `<text x="${x(i)}" y="145" text-anchor="` +
    `${i ? 'end' : 'start'}">${nameOf(facts.epochs[i])}</text>`);
  find('gamma').setAttribute('viewBox', `0 0 ${right + 20} 150`);
  find('gamma').innerHTML = marks.join('') + ends.join('') +
    `<polyline class="line" points="${gammas.map((value, i) => `${x(i)},${y(value)}`).join(' ')}"/>` +
    `<line class="now" x1="${x(view.epoch)}" x2="${x(view.epoch)}" y1="10" y2="130"/>` +
    `<circle cx="${x(view.epoch)}" cy="${y(gammas[view.epoch])}" r="4"/>`;
  find('gamma-now').textContent = `${nameOf(facts.epochs[view.epoch])}: gamma ${gammas[view.epoch].toFixed(3)}`;
}

// ---- Words
function percent(share) {
  const value = 100 * share;
  return `${value >= 10 || !value ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)}\u00a0%`;
}

// A cell of a grid in words, as rows and columns of places from 1.
function placeName(i, grid) {
  const {positions} = layer();
  const [rows, columns] = [Math.floor(i / grid[1]), i % grid[1]].map((number, axis) => {
    const step = Math.ceil(positions[axis] / grid[axis]);
    const [first, last] = [number * step + 1, Math.min((number + 1) * step, positions[axis])];
    return first === last ? `${first}` : `${first}–${last}`;
  });
  return `row${rows.includes('–') ? 's' : ''} ${rows}, column${columns.includes('–') ? 's' : ''} ${columns}`;
}

function say() {
  const {grid, shares} = shown(view.epoch, view.place), {positions} = layer(), looked = view.by === 'looked';
  const found = [...shares.keys()].filter(i => shares[i]);
  const five = found.sort((a, b) => shares[b] - shares[a]).slice(0, 5);
  const here = placeName(view.place, positions), key = placeName(keyAt(view.place), layer().keys);
  find('said').textContent = `${view.held ? 'held: ' : ''}${nameOf(facts.epochs[view.epoch])}, ${view.network}, ` +
    (looked ? `${key} is looked at ` : `${here} looks `) + (five.length ? 'most ' : '') + (looked ? 'by ' : 'at ') +
    (five.length ? `${placeName(five[0], grid)}: ${percent(shares[five[0]])}` : 'none with a share that is noted');
  find('five').replaceChildren(...five.map(i => Object.assign(document.createElement('li'), {
    textContent: `${placeName(i, grid)}: ${percent(shares[i])}`})));
  find('five-title').textContent = looked ? 'Who looks at it most' : 'What it looks at most';
  find('map-title').textContent = looked ? `How much each place looks at ${key}` : `Where ${here} looks`;
  const rest = arrays[`rest_${layer().number}`];
  find('partial').textContent = !partial() ? '' : looked ?
    `Partial: of each place only its ${arrays[`keys_${layer().number}`].shape[3]} largest shares are in this file.` :
    `All others together: ${percent(rest.values[rest.at(view.epoch, view.image, view.place)])}.`;
  find('image-title').textContent = view.held ? `Held: ${here} (Esc lets go)` : `Point at a place: ${here}`;
  const real = facts.epochs[view.epoch].real && view.network === 'discriminator';
  find('image-note').textContent = `${real ? 'A real test image' : 'An image that the generator made'}, ` +
    `${positions[0]} × ${positions[1]} places, ${product(layer().keys)} keys to look at`;
}

// ---- The whole page, from the view
const scaleOf = (side, pixels) => Math.max(1, Math.round(side / pixels));
function render() {
  const [height] = imageShape(), scale = scaleOf(448, height);
  const {epoch, step} = facts.epochs[view.epoch], whole = largest(arrays[`most_${layer().number}`].values);
  const largestOf = epoch => (view.scale === 'all' ? whole : largest(shown(epoch, view.place).shares)) || 1;
  const image = drawImage(find('image'), view.epoch, view.image, scale);
  drawGrid(image, scale);
  frame(image, view.place, scale);
  frame(drawMap(find('map'), view.epoch, view.place, scale, largestOf(view.epoch)), view.place, scale);
  drawLegend(largestOf(view.epoch));
  [...find('strip').children].forEach((button, i) => {
    drawMap(button.firstChild, i, view.place, scaleOf(112, height), largestOf(i));
    button.setAttribute('aria-pressed', i === view.epoch);
  });
  [...find('images').children].forEach((label, i) => drawImage(label.lastChild, view.epoch, i, 1));
  drawGamma();
  say();
  for (const name of ['network', 'image', 'by', 'scale'])
    document.querySelector(`input[name=${name}][value="${view[name]}"]`).checked = true;
  find('epoch').value = view.epoch;
  find('epoch').setAttribute('aria-valuetext', nameOf(facts.epochs[view.epoch]));
  find('epoch-name').textContent = (epoch ? `epoch ${epoch}, ` : '') + `step ${step}`;
  find('layer').replaceChildren(...layersOf(view.network).map(({positions}, number) =>
    new Option(`${number + 1}: ${positions.join(' × ')}`, number, false, number === view.layer)));
}

let waiting = 0, drawing = 0;  // numbers of a timer and of a request

// Changes the view within its bounds, draws it once a frame, and notes it in the address, not too often for browsers.
function change(values) {
  Object.assign(view, values);
  const bounded = (value, count) => Math.min(Math.max(value || 0, 0), count - 1);
  view.layer = bounded(view.layer, layersOf(view.network).length);
  view.image = bounded(view.image, facts.images);
  view.epoch = bounded(view.epoch, facts.epochs.length);
  view.place = bounded(view.place, product(layer().positions));
  drawing ||= requestAnimationFrame(() => { drawing = 0; render(); });
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, '', `#${address()}`), 300);
}

// ---- The address: places, layers and images from 1; a stage by its step, or its epoch, which two may share
function address() {
  const columns = layer().positions[1], place = [Math.floor(view.place / columns) + 1, view.place % columns + 1];
  return `network=${view.network}&layer=${view.layer + 1}&image=${view.image + 1}&step=` +
    `${facts.epochs[view.epoch].step}&place=${place}&by=${view.by}&scale=${view.scale}${view.held ? '&held=1' : ''}`;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), values = {...START, held: given.get('held') === '1'};
  if (layersOf(given.get('network')).length) values.network = given.get('network');
  for (const name of ['layer', 'image']) if (given.has(name)) values[name] = parseInt(given.get(name), 10) - 1;
  const stage = facts.epochs.findIndex(
    ({epoch, step}) => `${epoch}` === given.get('epoch') || `${step}` === given.get('step'));
  if (stage >= 0) values.epoch = stage;
  for (const [name, known] of [['by', ['looks', 'looked']], ['scale', ['own', 'all']]])
    if (known.includes(given.get(name))) values[name] = given.get(name);
  change(values);
  const [i, j] = (given.get('place') || '').split(',').map(number => parseInt(number, 10) - 1);
  change({place: placeAt(i, j) ?? sharpest()});
}

// The number of the place in row i and column j, undefined where there is none.
function placeAt(i, j) {
  const [rows, columns] = layer().positions;
  return i >= 0 && i < rows && j >= 0 && j < columns ? i * columns + j : undefined;
}

// The place of the image that looks most at one key: a view to begin with.
function sharpest() {
  const {at, values} = arrays[`most_${layer().number}`];
  const mosts = values.slice(at(view.epoch, view.image), at(view.epoch, view.image + 1));
  return mosts.indexOf(largest(mosts));
}

// ---- Controls
function placeUnder(event) {
  const {positions} = layer(), {left, top, width, height} = find('image').getBoundingClientRect();
  const inside = (value, count) => Math.min(Math.max(Math.floor(value * count), 0), count - 1);
  return inside((event.clientY - top) / height, positions[0]) * positions[1] +
    inside((event.clientX - left) / width, positions[1]);
}

// To another network or layer: the place stays where these have the same ones.
function enter(values) {
  const before = layer().positions.join();
  if (!values.network || layersOf(values.network).length) change(values);
  if (layer().positions.join() !== before) change({place: sharpest()});
}

function move(rows, columns) {
  const width = layer().positions[1];
  change({place: placeAt(Math.floor(view.place / width) + rows, view.place % width + columns) ?? view.place});
}

const KEYS = {'[': () => change({epoch: view.epoch - 1}), ']': () => change({epoch: view.epoch + 1}),
              g: () => enter({network: 'generator'}), d: () => enter({network: 'discriminator'}),
              Escape: () => change({held: false})};
const PLACE_KEYS = {ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1),
                    ArrowRight: () => move(0, 1), Enter: () => change({held: !view.held})};

function pressed(event) {
  if (event.metaKey || (event.ctrlKey || event.altKey) && !'[]'.includes(event.key)) return;  // AltGr writes [, ]
  // Inputs and buttons have these keys for themselves.
  const own = event.target.closest('input, select, button, summary');
  const does = KEYS[event.key] || (!own && PLACE_KEYS[event.key]);
  if (!does) return;
  event.preventDefault();
  does();
}

let playing = 0;  // the number of the timer

function play() {
  const last = facts.epochs.length - 1;
  if (!playing && view.epoch === last) change({epoch: 0});
  playing = playing ? clearInterval(playing) || 0 : setInterval(() => {
    change({epoch: view.epoch + 1});
    if (view.epoch === last) play();
  }, 500);
  find('play').textContent = playing ? 'Pause' : 'Play';
}

function build() {
  find('title').textContent = facts.title;
  document.title = `Where it looks: ${facts.title}`;
  find('about').textContent = `Stages of training: ${facts.epochs.length}` +
    (facts.left_out ? `; ${facts.left_out} more are left out` : '') +
    (facts.images < facts.images_noted ? `; ${facts.images} of ${facts.images_noted} images fit in` : '');
  find('networks').innerHTML = [...new Set(facts.layers.map(({network}) => network))].map(name =>
    `<label><input type="radio" name="network" value="${name}">${name}</label>`).join('');
  find('images').innerHTML = Array.from({length: facts.images}, (_, i) => '<label><input type="radio" name="image" ' +
    `value="${i}" aria-label="image ${i + 1}"><canvas></canvas></label>`).join('');
  find('strip').innerHTML = facts.epochs.map(stage => `<button type="button" aria-label="${nameOf(stage)}">` +
    `<canvas></canvas>${stage.epoch || nameOf(stage)}</button>`).join('');
  find('epoch').max = facts.epochs.length - 1;
  find('layer-field').hidden = facts.layers.length === find('networks').children.length;  // one each
  document.querySelector('main').hidden = false;

  document.addEventListener('change', ({target: {name, value}}) => {
    if (name === 'network') enter({network: value});
    else if (name) change({[name]: name === 'image' ? Number(value) : value});
  });
  find('layer').addEventListener('change', event => enter({layer: Number(event.target.value)}));
  find('epoch').addEventListener('input', event => change({epoch: Number(event.target.value)}));
  find('play').addEventListener('click', play);
  [...find('strip').children].forEach((button, epoch) => button.addEventListener('click', () => change({epoch})));
  find('image').addEventListener('pointermove', event =>
    view.held || placeUnder(event) === view.place || change({place: placeUnder(event)}));
  find('image').addEventListener('click', event =>
    change({place: placeUnder(event), held: !(view.held && placeUnder(event) === view.place)}));
  document.addEventListener('keydown', pressed);
  window.addEventListener('hashchange', readAddress);
  window.addEventListener('resize', () => change({}));
}

readData().then(() => { build(); readAddress(); }).catch(error => {
  Object.assign(find('trouble'), {hidden: false, textContent: `This page cannot be shown (${error.message}): it ` +
    'needs a browser of 2024 or newer, and its file as it was written.'});
});
