// What the widgets cannot do by themselves: copy a text, vote by arrow keys, scroll a page to the place that is voted on,
// and hold back a file that the server would not take.
window.ocrlabCopy = button => {
  const text = new TextDecoder().decode(Uint8Array.from(atob(button.dataset.text), c => c.charCodeAt(0)));
  navigator.clipboard.writeText(text).then(
    () => { button.textContent = 'copied'; },
    () => { button.textContent = 'not allowed here'; });
};

// The upload widget reads a whole file and sends it in one message; one above the server's limit would cut the
// connection without a word. This holds such a file back and says so.
(() => {
  window.ocrlabUploadLimit = LIMIT;
  if (window.ocrlabGuarded) return;
  window.ocrlabGuarded = true;
  const sides = {ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'both', ArrowDown: 'neither'};
  document.addEventListener('keydown', event => {
    const button = sides[event.key] && document.querySelector(`.ocr-vote-${sides[event.key]}`);
    const element = event.target, ours = element === document.body || element.closest?.('.ocr-app');
    if (!button?.offsetParent || !ours || element.closest('input, textarea, select')) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) button.click();
  }, true);
  document.addEventListener('click', event => {
    if (event.target.closest?.('.ocr-a-correct, .ocr-b-correct')) {
      setTimeout(() => document.querySelector('.ocr-correct').scrollIntoView({behavior: 'smooth'}), 500);
    }
  });
  let shown;
  new MutationObserver(() => {
    const texts = document.querySelector('.ocr-two'), image = document.querySelector('.ocr-vote .ocr-place img');
    if (!texts || texts === shown || !image?.complete || !image.naturalHeight) return;
    shown = texts;
    const place = image.closest('.ocr-place'), at = texts.dataset.share * image.offsetHeight - place.clientHeight / 2;
    place.scrollTo({top: at, behavior: 'smooth'});
  }).observe(document.body, {childList: true, subtree: true});
  const read = FileReader.prototype.readAsArrayBuffer;
  FileReader.prototype.readAsArrayBuffer = function (blob) {
    const places = document.querySelectorAll('.ocr-refused');
    places.forEach(place => { place.textContent = ''; place.className = 'ocr-refused'; });
    if (!(blob instanceof File) || blob.size <= window.ocrlabUploadLimit) return read.call(this, blob);
    const words = `${blob.name}: ${(blob.size / 1048576).toFixed(1)} MiB are above the upload limit of ` +
      `${window.ocrlabUploadLimit / 1048576} MiB; give its path instead, or make it smaller`;
    places.forEach(place => { place.textContent = words; place.className = 'ocr-refused ocr-note ocr-bad'; });
  };
})();
