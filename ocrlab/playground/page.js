// What the widgets cannot do by themselves: copy a text, and hold back a file that the server would not take.
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
