// The hidden canvas that holds the playground's drawing. ink is its 2D context.
'use strict';

const DIGIT_BOX = 20, DIGIT_CENTRE = 0.5;  // of MNIST, in pixels; the centre of mass is right of and below the middle
const STROKE_WIDTH = 2.5;  // of MNIST, in pixels
const VISIBLE = 25;  // of 255; darker pixels do not count as part of a digit
const MAX_FILE_PIXELS = 50e6;  // a larger image might exhaust the memory of a phone

function makeSurface(height, width) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext('2d', {willReadFrequently: true});
}

function fillSurface(ink, colour) {
  ink.fillStyle = colour;
  ink.fillRect(0, 0, ink.canvas.width, ink.canvas.height);
}

// Return pixels [H, W, C] from 0 to 1, each the average of scale x scale pixels of the surface.
function readPixels(ink, scale, channels) {
  const {width, height} = ink.canvas, {data} = ink.getImageData(0, 0, width, height);
  const sums = new Float64Array(height * width / scale ** 2 * channels);
  for (let y = 0, source = 0; y < height; y++) {
    const row = Math.floor(y / scale) * width / scale;
    for (let x = 0; x < width; x++, source += 4) {
      const target = (row + Math.floor(x / scale)) * channels;
      for (let channel = 0; channel < channels; channel++) sums[target + channel] += data[source + channel];
    }
  }
  return Float32Array.from(sums, sum => sum / (255 * scale ** 2));
}

// Call convert(data, i) for each pixel. Its red, green and blue are data[i], data[i + 1] and data[i + 2].
function convertPixels(ink, convert) {
  const image = ink.getImageData(0, 0, ink.canvas.width, ink.canvas.height);
  for (let i = 0; i < image.data.length; i += 4) convert(image.data, i);
  ink.putImageData(image, 0, 0);
}

function invert(ink) {
  convertPixels(ink, (data, i) => {
    for (let channel = i; channel < i + 3; channel++) data[channel] = 255 - data[channel];
  });
}

function toGrey(ink) {
  convertPixels(ink, (data, i) => {
    data.fill(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2], i, i + 3);  // ITU-R BT.601, as in Pillow
  });
}

function drawLine(ink, from, to, colour, lineWidth) {
  ink.lineCap = 'round';
  ink.lineWidth = lineWidth;
  ink.strokeStyle = colour;
  ink.beginPath();
  ink.moveTo(...from);
  ink.lineTo(...to);
  ink.stroke();
}

// Return {left, right, top, bottom, x, y}: the bounds of the visible pixels and the centre of mass of all pixels, or
// null if no pixel is visible.
function measureDigit(ink) {
  const {width, height} = ink.canvas, {data} = ink.getImageData(0, 0, width, height);
  let left = width, right = 0, top = height, bottom = 0, mass = 0, x = 0, y = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = data[4 * (row * width + column)];
      mass += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
      if (value <= VISIBLE) continue;
      left = Math.min(left, column);
      right = Math.max(right, column + 1);
      top = Math.min(top, row);
      bottom = row + 1;
    }
  }
  return right > 0 ? {left, right, top, bottom, x: x / mass, y: y / mass} : null;
}

// Scale a digit to a box of 20 x 20 pixels and move its centre of mass to that of MNIST's digits.
// pixel is the width of a pixel of MNIST on the surface.
function centreDigit(ink, pixel) {
  const digit = measureDigit(ink);
  if (digit === null) return;
  const {width, height} = ink.canvas, {left, right, top, bottom, x, y} = digit;
  const scale = DIGIT_BOX * pixel / Math.max(right - left, bottom - top);
  const copy = makeSurface(height, width);
  copy.drawImage(ink.canvas, 0, 0);
  fillSurface(ink, '#000');
  ink.imageSmoothingEnabled = true;
  ink.imageSmoothingQuality = 'high';
  ink.drawImage(copy.canvas, left, top, right - left, bottom - top,
                width / 2 + DIGIT_CENTRE * pixel - scale * (x - left),
                height / 2 + DIGIT_CENTRE * pixel - scale * (y - top), scale * (right - left), scale * (bottom - top));
}

// Return a surface with the centre of an image file. Transparent pixels become white.
async function readImageFile(file, height, width) {
  const address = URL.createObjectURL(file);
  try {
    const image = await openImage(address);
    const ink = makeSurface(height, width);
    const scale = Math.min(image.naturalWidth / width, image.naturalHeight / height);
    const cropWidth = scale * width, cropHeight = scale * height;
    fillSurface(ink, '#fff');
    ink.imageSmoothingQuality = 'high';
    ink.drawImage(image, (image.naturalWidth - cropWidth) / 2, (image.naturalHeight - cropHeight) / 2, cropWidth,
                  cropHeight, 0, 0, width, height);
    ink.getImageData(0, 0, 1, 1);  // in some browsers, an SVG with HTML inside makes a canvas unreadable
    return ink;
  } finally {
    URL.revokeObjectURL(address);
  }
}

// Return an image that is not decoded yet, so that its size is checked before it takes memory.
async function openImage(address) {
  const image = new Image();
  await new Promise((resolve, reject) => {
    image.onload = resolve;
    image.onerror = () => reject(new Error('it is not an image that this browser can read'));
    image.src = address;
  });
  const pixels = image.naturalWidth * image.naturalHeight;
  if (pixels === 0) throw new Error('it has no size in pixels');
  if (pixels > MAX_FILE_PIXELS)
    throw new Error(`it has ${Math.round(pixels / 1e6)} megapixels, and the limit is ${MAX_FILE_PIXELS / 1e6}`);
  return image;
}
