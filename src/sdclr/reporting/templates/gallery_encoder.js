// Computes the features of an image on the page: the evaluation view, then the encoder's layers. Values are stored by
// pixel, then by channel.
const encoder = { known: null, bytes: null, layers: null };

// The encoder's scripts call these.
function sdclrEncoder(known) {
  encoder.known = known;
  encoder.bytes = new Uint8Array(known.weights);
}
function sdclrWeights(part) {
  encoder.bytes.set(numbers(part.weights, Uint8Array), part.start);
}

// Long computations call this often, so that the page stays responsive.
let restedAt = 0;
const channel = new MessageChannel();
const waiting = [];
channel.port1.onmessage = () => waiting.shift()();
async function rest() {
  if (performance.now() - restedAt < 30) return;
  await new Promise((resolve) => { waiting.push(resolve); channel.port2.postMessage(0); });
  restedAt = performance.now();
}

// Weights in the layout of the loops. A dense convolution has panels of four interleaved filters.
function unpacked(layer) {
  if (layer.kind !== "conv") return layer;
  const { known, bytes } = encoder;
  const scales = known.numbers.subarray(layer.numbers, layer.numbers + layer.out);
  const bias = known.numbers.subarray(layer.numbers + layer.out, layer.numbers + 2 * layer.out);
  const long = layer.each;
  const raw = new (layer.wide ? Int16Array : Int8Array)(bytes.buffer, layer.weights, layer.out * long);
  if (layer.depthwise) {
    return { ...layer, bias, filters: Float32Array.from(raw, (weight, place) => weight * scales[place % layer.out]) };
  }
  const panels = new Float64Array(Math.ceil(layer.out / 4) * 4 * long);
  for (let out = 0; out < layer.out; out += 1) {
    const start = (out - (out % 4)) * long + (out % 4);
    for (let place = 0; place < long; place += 1) panels[start + 4 * place] = raw[out * long + place] * scales[out];
  }
  return { ...layer, bias, filters: panels };
}

async function unpackEncoder() {
  if (encoder.layers) return;
  const { known } = encoder;
  known.numbers = numbers(known.numbers, Float32Array);
  known.components = numbers(known.components, Int16Array);
  known.componentScale = numbers(known.componentScale, Float32Array);
  const layers = [];
  for (const layer of known.layers) {
    layers.push(unpacked(layer));
    await rest();
  }
  encoder.layers = layers;
  encoder.bytes = null;
}

// The resize of Pillow: the filter is scaled to the output pixel to avoid aliasing, and values are rounded to bytes after
// each direction. (For images more than twice as high as wide, Pillow 13 may resize the height first, which differs by a few
// levels at hard edges.) Returns the start and the weights of the window of each output pixel from `first` on.
const FILTERS = {
  bilinear: [1, (x) => 1 - x],
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2)],
  lanczos: [3, (x) => (x === 0 ? 1 : (3 * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / 3)) / (Math.PI * x) ** 2)],
};
function windows(from, to, first, count, name) {
  const [reach, filter] = FILTERS[name];
  const scale = from / to;
  const wide = Math.max(scale, 1);
  return Array.from({ length: count }, (_, place) => {
    const center = (first + place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach * wide + 0.5));
    const end = Math.min(from, Math.trunc(center + reach * wide + 0.5));
    const weights = new Float64Array(end - start);
    let sum = 0;
    for (let at = start; at < end; at += 1) {
      const x = Math.abs((at - center + 0.5) / wide);
      weights[at - start] = x < reach ? filter(x) : 0;
      sum += weights[at - start];
    }
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

// The part (left, top, size, size) of an image resized to (width, height), as RGB bytes.
async function resized(image, width, height, left, top, size, filter) {
  const [columns, lines] = [windows(image.width, width, left, size, filter), windows(image.height, height, top, size, filter)];
  const from = lines[0].start;
  const until = lines[size - 1].start + lines[size - 1].weights.length;
  const flat = new Uint8ClampedArray((until - from) * size * 3); // rounds to the nearest byte
  for (let y = from; y < until; y += 1) {
    for (let x = 0; x < size; x += 1) {
      const { start, weights } = columns[x];
      let [red, green, blue] = [0, 0, 0];
      for (let place = 0, at = 4 * (y * image.width + start); place < weights.length; place += 1, at += 4) {
        red += weights[place] * image.data[at];
        green += weights[place] * image.data[at + 1];
        blue += weights[place] * image.data[at + 2];
      }
      const to = 3 * ((y - from) * size + x);
      flat[to] = red;
      flat[to + 1] = green;
      flat[to + 2] = blue;
    }
    await rest();
  }
  const found = new Uint8ClampedArray(size * size * 3);
  for (let y = 0; y < size; y += 1) {
    const { start, weights } = lines[y];
    for (let place = 0; place < 3 * size; place += 1) {
      let sum = 0;
      for (let line = 0, at = (start - from) * size * 3 + place; line < weights.length; line += 1, at += 3 * size) sum += weights[line] * flat[at];
      found[3 * size * y + place] = sum;
    }
    await rest();
  }
  return found;
}

// The same size and crop as for the collection's images. `image` has width, height and RGBA bytes.
async function evaluationView(image) {
  const { size, resized: short, squash, small, filter } = encoder.known.view;
  const { width, height } = image;
  if (Math.max(width, height) <= small) return resized(image, size, size, 0, 0, size, filter);
  const shorter = Math.min(width, height);
  const [wide, high] = [width, height].map((side) => (squash ? short : Math.floor((short * side) / shorter)));
  const [left, top] = [wide, high].map((side) => half((side - size) / 2));
  return resized(image, wide, high, left, top, size, filter);
}

// Python rounds halves to even numbers.
function half(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

// Components of an image's features in the index. `tell` is called with the progress, from 0 to 1.
async function componentsOf(image, tell = () => {}) {
  await unpackEncoder();
  const { view, layers, components, componentScale, width } = encoder.known;
  const pixels = await evaluationView(image);
  const values = [{ high: view.size, wide: view.size, deep: 3, data: new Float32Array(pixels.length) }];
  pixels.forEach((value, place) => { values[0].data[place] = (value / 255 - view.mean[place % 3]) / view.std[place % 3]; });
  const needed = new Map();
  layers.forEach((layer, place) => layer.inputs.forEach((number) => needed.set(number, place)));
  for (const [place, layer] of encoder.layers.entries()) {
    values.push(await RUN[layer.kind](layer, ...layer.inputs.map((number) => values[number])));
    clampAll(layer, values[place + 1].data);
    for (const number of layer.inputs) if (needed.get(number) === place) values[number] = null;
    tell((place + 1) / layers.length);
  }
  const features = values[layers.length].data;
  const length = Math.sqrt(features.reduce((sum, value) => sum + value * value, 0)) || 1;
  return Float64Array.from(componentScale, (scale, component) => {
    let sum = 0;
    for (let place = 0; place < width; place += 1) sum += components[component * width + place] * features[place];
    return (sum * scale) / length;
  });
}

function clampAll({ low = -Infinity, high = Infinity }, data) {
  if (low === -Infinity && high === Infinity) return;
  for (let place = 0; place < data.length; place += 1) {
    const value = data[place];
    if (value < low) data[place] = low;
    else if (value > high) data[place] = high;
  }
}

function outputOf(layer, input, deep) {
  const [left, right, top, bottom] = layer.pad;
  const high = Math.floor((input.high + top + bottom - layer.size[0]) / layer.stride[0]) + 1;
  const wide = Math.floor((input.wide + left + right - layer.size[1]) / layer.stride[1]) + 1;
  return { high, wide, deep, data: new Float32Array(high * wide * deep) };
}

// A dense convolution processes four pixels by four filters at a time, so that each value read is used four times.
async function dense(layer, input) {
  const output = outputOf(layer, input, layer.out);
  const pixels = output.high * output.wide;
  const panel = new Float64Array(4 * layer.each);
  for (let pixel = 0; pixel < pixels; pixel += 4) {
    gather(layer, input, output.wide, pixel, Math.min(4, pixels - pixel), panel);
    multiply(layer, panel, output.data, pixel, Math.min(4, pixels - pixel));
    if (pixel % 16 === 0) await rest();
  }
  return output;
}

// The inputs of the filters at up to four output pixels, interleaved. Outside the image they are 0.
function gather(layer, { high, wide, deep, data }, across, pixel, count, panel) {
  const [[filterHigh, filterWide], [down, right]] = [layer.size, layer.stride];
  panel.fill(0);
  for (let place = 0; place < count; place += 1) {
    const top = Math.floor((pixel + place) / across) * down - layer.pad[2];
    const left = ((pixel + place) % across) * right - layer.pad[0];
    for (let y = 0, to = place; y < filterHigh; y += 1) {
      for (let x = 0; x < filterWide; x += 1, to += 4 * deep) {
        if (top + y < 0 || top + y >= high || left + x < 0 || left + x >= wide) continue;
        const from = ((top + y) * wide + left + x) * deep;
        for (let part = 0; part < deep; part += 1) panel[to + 4 * part] = data[from + part];
      }
    }
  }
}

function multiply(layer, panel, data, pixel, count) {
  const { filters, bias, out, each } = layer;
  for (let first = 0; first < out; first += 4) {
    const e0 = bias[first], e1 = first + 1 < out ? bias[first + 1] : 0;
    const e2 = first + 2 < out ? bias[first + 2] : 0, e3 = first + 3 < out ? bias[first + 3] : 0;
    let a0 = e0, a1 = e1, a2 = e2, a3 = e3, b0 = e0, b1 = e1, b2 = e2, b3 = e3;
    let c0 = e0, c1 = e1, c2 = e2, c3 = e3, d0 = e0, d1 = e1, d2 = e2, d3 = e3;
    for (let i = 0, j = first * each; i < 4 * each; i += 4, j += 4) {
      const x0 = panel[i], x1 = panel[i + 1], x2 = panel[i + 2], x3 = panel[i + 3];
      const y0 = filters[j], y1 = filters[j + 1], y2 = filters[j + 2], y3 = filters[j + 3];
      a0 += x0 * y0; a1 += x0 * y1; a2 += x0 * y2; a3 += x0 * y3;
      b0 += x1 * y0; b1 += x1 * y1; b2 += x1 * y2; b3 += x1 * y3;
      c0 += x2 * y0; c1 += x2 * y1; c2 += x2 * y2; c3 += x2 * y3;
      d0 += x3 * y0; d1 += x3 * y1; d2 += x3 * y2; d3 += x3 * y3;
    }
    const to = pixel * out + first;
    if (count === 4 && first + 4 <= out) {
      data[to] = a0; data[to + 1] = a1; data[to + 2] = a2; data[to + 3] = a3;
      data[to + out] = b0; data[to + out + 1] = b1; data[to + out + 2] = b2; data[to + out + 3] = b3;
      data[to + 2 * out] = c0; data[to + 2 * out + 1] = c1; data[to + 2 * out + 2] = c2; data[to + 2 * out + 3] = c3;
      data[to + 3 * out] = d0; data[to + 3 * out + 1] = d1; data[to + 3 * out + 2] = d2; data[to + 3 * out + 3] = d3;
      continue;
    }
    const sums = [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]];
    for (let place = 0; place < count; place += 1) {
      for (let filter = 0; filter < 4 && first + filter < out; filter += 1) data[to + place * out + filter] = sums[place][filter];
    }
  }
}

async function depthwise(layer, input) {
  const output = outputOf(layer, input, layer.out);
  const taps = new Int32Array(2 * layer.size[0] * layer.size[1]);
  for (let y = 0; y < output.high; y += 1) {
    for (let x = 0; x < output.wide; x += 1) {
      const count = tapsAt(layer, input, y * layer.stride[0] - layer.pad[2], x * layer.stride[1] - layer.pad[0], taps);
      filterChannels(layer, input.data, taps, count, output.data, (y * output.wide + x) * layer.out);
    }
    await rest();
  }
  return output;
}

// Offsets of the pixels under a window that are inside the image, and of the filter's weights for them.
function tapsAt(layer, { high, wide, deep }, top, left, taps) {
  let count = 0;
  for (let y = Math.max(0, -top); y < layer.size[0] && top + y < high; y += 1) {
    for (let x = Math.max(0, -left); x < layer.size[1] && left + x < wide; x += 1) {
      taps[count] = ((top + y) * wide + left + x) * deep;
      taps[count + 1] = (y * layer.size[1] + x) * deep;
      count += 2;
    }
  }
  return count;
}

// Processes three pixels at a time, so that sums are read and written less often.
function filterChannels(layer, data, taps, count, sums, to) {
  const { filters, bias, out } = layer;
  for (let part = 0; part < out; part += 1) sums[to + part] = bias[part];
  let tap = 0;
  for (; tap + 6 <= count; tap += 6) {
    const p0 = taps[tap], p1 = taps[tap + 2], p2 = taps[tap + 4];
    const f0 = taps[tap + 1], f1 = taps[tap + 3], f2 = taps[tap + 5];
    for (let part = 0; part < out; part += 1) {
      sums[to + part] += data[p0 + part] * filters[f0 + part] + data[p1 + part] * filters[f1 + part] + data[p2 + part] * filters[f2 + part];
    }
  }
  for (; tap < count; tap += 2) {
    const pixel = taps[tap], filter = taps[tap + 1];
    for (let part = 0; part < out; part += 1) sums[to + part] += data[pixel + part] * filters[filter + part];
  }
}

async function maxPool(layer, input) {
  const output = outputOf(layer, input, input.deep);
  const { high, wide, deep, data } = input;
  output.data.fill(-Infinity);
  for (let y = 0; y < output.high; y += 1) {
    for (let x = 0; x < output.wide; x += 1) {
      const to = (y * output.wide + x) * deep;
      for (let window = 0; window < layer.size[0] * layer.size[1]; window += 1) {
        const line = y * layer.stride[0] - layer.pad[2] + Math.floor(window / layer.size[1]);
        const column = x * layer.stride[1] - layer.pad[0] + (window % layer.size[1]);
        if (line < 0 || line >= high || column < 0 || column >= wide) continue;
        const from = (line * wide + column) * deep;
        for (let part = 0; part < deep; part += 1) output.data[to + part] = Math.max(output.data[to + part], data[from + part]);
      }
    }
    await rest();
  }
  return output;
}

const mapped = (input, act) => ({ ...input, data: input.data.map(act) });
const RUN = {
  conv: (layer, input) => (layer.depthwise ? depthwise(layer, input) : dense(layer, input)),
  add: (_, one, other) => mapped(one, (value, place) => value + other.data[place]),
  clamp: (_, input) => mapped(input, (value) => value),
  silu: (_, input) => mapped(input, (value) => value / (1 + Math.exp(-value))),
  hardswish: (_, input) => mapped(input, (value) => (value * Math.min(6, Math.max(0, value + 3))) / 6),
  max_pool: maxPool,
  mean: (_, { high, wide, deep, data }) => {
    const sums = new Float64Array(deep);
    for (let place = 0; place < data.length; place += 1) sums[place % deep] += data[place];
    return { high: 1, wide: 1, deep, data: Float32Array.from(sums, (sum) => sum / (high * wide)) };
  },
};
