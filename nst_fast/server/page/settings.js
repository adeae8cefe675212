// What is set: only what differs from the values of look, quality and program, which are looked up in that order.

export class Settings {
  constructor(options, { presets, qualities }) {
    this.declared = new Map(options.map((option) => [option.name, option]));
    this.presets = new Map(presets.map((preset) => [preset.name, preset]));
    this.qualities = qualities;
    this.given = new Map();
    this.preset = this.quality = null;
    this.listeners = [];
  }

  // The value that holds where none is given.
  base(name) {
    const [quality, preset] = [this.qualities[this.quality], this.presets.get(this.preset)?.values];
    return quality?.[name] ?? preset?.[name] ?? this.declared.get(name)?.default;
  }

  value(name) {
    return this.given.has(name) ? this.given.get(name) : this.base(name);
  }

  set(name, value) {
    if (value === undefined || value === null || value === this.base(name)) this.given.delete(name);
    else this.given.set(name, value);
    this.changed();
  }

  choosePreset(name) {
    this.preset = name;
    this.changed();
  }

  // A quality says how many steps: a number of steps that was given is forgotten.
  chooseQuality(name) {
    this.quality = name;
    for (const option of Object.keys(this.qualities[name])) this.given.delete(option);
    this.changed();
  }

  request() {
    return { preset: this.preset, quality: this.quality, options: Object.fromEntries(this.given) };
  }

  load({ preset = null, quality = null, options = {} }) {
    [this.preset, this.quality] = [preset, quality];
    const known = Object.entries(options).filter(
      ([name, value]) => this.declared.has(name) && value !== this.base(name),
    );
    this.given = new Map(known);
    this.changed();
  }

  changed() {
    for (const listener of this.listeners) listener();
  }
}
