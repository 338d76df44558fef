// The site can be read from a folder. Browsers start no worker for a page of file://, so there the search, which is a
// worker, runs in a hidden frame. Messages arrive later and as copies, as a worker's do.
if (location.protocol === "file:") {
  const later = (deliver, data) => setTimeout(() => deliver({ data: structuredClone(data) }));

  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html>";
      this.ready = new Promise((resolve) => (this.frame.onload = resolve)).then(() => this.start(url));
      document.body.append(this.frame);
    }

    start(url) {
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => later((event) => this.onmessage?.(event), data);
      const script = inner.document.createElement("script");
      script.src = url;
      inner.document.head.append(script);
      return new Promise((resolve, reject) => Object.assign(script, { onload: resolve, onerror: reject }));
    }

    postMessage(data) {
      this.ready.then(
        () => later((event) => this.frame.contentWindow?.onmessage(event), data),
        () => this.onerror?.(new Event("error")),
      );
    }

    terminate() {
      this.frame.remove();
    }
  };
}
