// A page that was opened as a file may not start a worker. A hidden frame does the worker's part there.
if (location.protocol === "file:") {
  // As with a worker, messages are copied, and arrive after the code that sends them.
  const send = (target, Event, data) =>
    setTimeout(() => target.dispatchEvent(new Event("message", { data: structuredClone(data) })));

  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      this.ready = false;
      this.addEventListener("message", (event) => this.onmessage?.(event));
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.addEventListener("load", () => this.begin(new URL(address, location.href).href), { once: true });
      document.body.append(this.frame);
    }

    begin(address) {
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => send(this, MessageEvent, data);
      const script = inner.document.createElement("script");
      script.src = address;
      script.addEventListener("load", () => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
      inner.document.body.append(script);
    }

    postMessage(data) {
      if (this.ready) {
        send(this.frame.contentWindow, this.frame.contentWindow.MessageEvent, data);
      } else {
        this.waiting.push(data);
      }
    }

    terminate() {
      this.frame.remove();
    }
  };
}
