const [withColors] = arguments;
const faults = [];

// A colour on its way to another one is neither.
const still = document.createElement("style");
still.textContent = "* { transition: none !important; }";
document.head.append(still);

const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
if (wide > 0) faults.push(`wider than its screen by ${wide} pixels`);

const headings = document.querySelectorAll("h1").length;
if (headings !== 1) faults.push(`${headings} h1`);

const named = (element) => element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
  || element.textContent.trim() || element.querySelector("img[alt], svg title") || element.title
  || element.labels?.length || element.placeholder;
for (const element of document.querySelectorAll("a[href], button, input:not([type=hidden]), svg[role=img]")) {
  if (element.checkVisibility({visibilityProperty: true}) && !named(element)) {
    faults.push(`no name: ${element.outerHTML.slice(0, 90)}`);
  }
}
for (const image of document.querySelectorAll("img:not([alt])")) faults.push(`no alt: ${image.outerHTML}`);

if (!withColors) return faults;

// -- contrast

const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});

const colors = new Map();

function rgba(color) {
  if (!colors.has(color)) colors.set(color, drawn(color));
  return colors.get(color);
}

function drawn(color) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
}

function over(front, back) {
  return [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3]));
}

function luminance(color) {
  const [red, green, blue] = color.slice(0, 3).map((value) => {
    const part = value / 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

const backgrounds = new Map([[null, [255, 255, 255]]]);

function background(element) {
  if (!backgrounds.has(element)) {
    const front = rgba(getComputedStyle(element).backgroundColor);
    backgrounds.set(element, over(front, background(element.parentElement)));
  }
  return backgrounds.get(element);
}

function behind(text) {
  const {left, right, top, bottom} = text.getBoundingClientRect();
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  let color = background(text.ownerSVGElement);
  for (const shape of text.ownerSVGElement.querySelectorAll("rect")) {
    const box = shape.getBoundingClientRect();
    const {fill} = getComputedStyle(shape);
    if (fill === "none") continue;
    if (box.left < x && x < box.right && box.top < y && y < box.bottom) color = over(rgba(fill), color);
  }
  return color;
}

const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const seen = new Set();
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || seen.has(element)) continue;
  seen.add(element);
  if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  if (element.closest("script, style, title, desc")) continue;
  const style = getComputedStyle(element);
  const inDrawing = element instanceof SVGElement;
  const back = inDrawing ? behind(element) : background(element);
  const front = over(rgba(inDrawing ? style.fill : style.color), back);
  const [dark, light] = [luminance(front), luminance(back)].sort((a, b) => a - b);
  const ratio = (light + 0.05) / (dark + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) {
    faults.push(`contrast ${ratio.toFixed(2)}: ${element.textContent.trim().slice(0, 60)}`);
  }
}
return faults;
