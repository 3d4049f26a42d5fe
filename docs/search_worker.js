// The search runs in a worker. Browsers start none for a page that was opened from a folder: then a hidden frame takes
// its place, which has the same messages.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.worker = this;
      this.frame.srcdoc =
        '<script>postMessage = data => frameElement.worker.dispatchEvent(new MessageEvent("message", {data}))</script>' +
        `<script src="${script}"></script>`;
      this.loaded = new Promise((done) => this.frame.addEventListener("load", done));
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
