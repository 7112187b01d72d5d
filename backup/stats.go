package backup

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats tell of the backups of this server, and of the last one that it knows of.
type Stats struct {
	// Last is the last good one: made by this server, or found in the target. Its Time is 0 if there is none.
	Last Backup
	// Took is how long it took; 0 if another server, or an earlier start, has made it.
	Took time.Duration
	// Tried is when this server last tried, with or without success. 0: not yet.
	Tried time.Time
	// Failed says that this was without.
	Failed bool
	// Running says that one is being made.
	Running bool
	// Successes and Failures count since the start.
	Successes, Failures uint64
	// Others is how many backups of other clusters this server has seen in the place when it last looked, with OthersSize bytes.
	Others, OthersSize int64
	// Looked says that it has.
	Looked bool
}

// others counts, of all that there are, those of other clusters than this one.
func (s *Stats) others(cluster uint64, all []Backup) {
	s.Others, s.OthersSize, s.Looked = 0, 0, true
	for _, b := range all {
		if b.Cluster != cluster {
			s.Others++
			s.OthersSize += b.Size
		}
	}
}

func (s *Stats) saw(b Backup) {
	if b != s.Last {
		s.Last, s.Took = b, 0
	}
}

func (s *Stats) succeed(b Backup, now time.Time, took time.Duration) {
	s.Last, s.Took, s.Tried, s.Failed = b, took, now, false
	s.Successes++
}

func (s *Stats) fail(now time.Time) {
	s.Tried, s.Failed = now, true
	s.Failures++
}

// Stats gives what there is to tell.
func (r *Runner) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

func (r *Runner) update(do func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do(&r.stats)
}

// descs are of the metrics. etcd has none of these.
type descs struct {
	timestamp, age, size, revision, duration, success, running, total, others, othersSize *prometheus.Desc
}

func describe() descs {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("keelson_backup_"+name, help, labels, nil)
	}
	return descs{
		timestamp:  d("last_success_timestamp_seconds", "The unix time of the last good backup, as far as this server knows: it asks the target while it backs up for all."),
		age:        d("last_success_age_seconds", "The age of that backup."),
		size:       d("last_success_size_bytes", "The size of that backup."),
		revision:   d("last_success_revision", "The revision of that backup."),
		duration:   d("last_success_duration_seconds", "How long that backup took, from the snapshot to the last check, if this server made it since its start."),
		success:    d("last_result", "The result of the last attempt of this server, while it is the one that backs up: 1 is success, 0 is failure."),
		running:    d("in_progress", "Whether or not a backup is being made by this server. 1 means yes, 0 means not."),
		total:      d("attempts_total", "The total number of attempts of this server to make a backup, by result.", "result"),
		others:     d("others", "The backups of other clusters in the place, which are not removed, when this server last looked, while it is the one that backs up."),
		othersSize: d("others_size_bytes", "The size of all of those."),
	}
}

// Describe implements prometheus.Collector.
func (r *Runner) Describe(out chan<- *prometheus.Desc) {
	d := describe()
	for _, one := range []*prometheus.Desc{d.timestamp, d.age, d.size, d.revision, d.duration, d.success, d.running, d.total, d.others, d.othersSize} {
		out <- one
	}
}

// Collect implements prometheus.Collector. What is not known is not shown.
func (r *Runner) Collect(out chan<- prometheus.Metric) {
	d, s := describe(), r.Stats()
	gauge := func(desc *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v)
	}
	if !s.Last.Time.IsZero() {
		gauge(d.timestamp, float64(s.Last.Time.UnixMilli())/1e3)
		gauge(d.age, max(0, r.now().Sub(s.Last.Time).Seconds()))
		gauge(d.size, float64(s.Last.Size))
		gauge(d.revision, float64(s.Last.Revision))
		if s.Took > 0 {
			gauge(d.duration, s.Took.Seconds())
		}
	}
	// What became of the attempts of a server that has led before is no news, and would hide what becomes of those of its successor.
	if !s.Tried.IsZero() && r.o.Leads() {
		gauge(d.success, truth(!s.Failed))
	}
	if s.Looked && r.o.Leads() {
		gauge(d.others, float64(s.Others))
		gauge(d.othersSize, float64(s.OthersSize))
	}
	gauge(d.running, truth(s.Running))
	out <- prometheus.MustNewConstMetric(d.total, prometheus.CounterValue, float64(s.Successes), "success")
	out <- prometheus.MustNewConstMetric(d.total, prometheus.CounterValue, float64(s.Failures), "failure")
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
