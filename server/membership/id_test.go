package membership

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// founding is an initial cluster, and what etcd 3.7.3 makes of it. The peers test asks a real one the same.
type founding struct {
	name    string // the member that is started
	cluster string
	token   string
	member  string
	id      string
}

func foundings() []founding {
	return []founding{
		{"default", "default=http://localhost:2380", "etcd-cluster", "8e9e05c52164694d", "cdf818194e3a8c32"},
		{"other-name", "other-name=http://localhost:2380", "etcd-cluster", "8e9e05c52164694d", "cdf818194e3a8c32"},
		{"default", "default=http://localhost:2380", "another", "fca68ffa5fb3a823", "8b1b6eb8a19602a0"},
		{"default", "default=http://localhost:2380", "", "37807cb0bf7500f6", "2c833ae9c7555b5e"},
		{"m1", "m1=http://127.0.0.1:2380,m1=http://10.0.0.1:2380", "etcd-cluster", "50782b81ac3fe6d1", "92d4f5dee6d38725"},
		{"m1", "m1=http://10.0.0.1:2380,m1=http://127.0.0.1:2380", "etcd-cluster", "50782b81ac3fe6d1", "92d4f5dee6d38725"},
		{"m1", "m1=http://[::1]:2380", "etcd-cluster", "9f01c01111e47e74", "f34e429f9173d762"},
		{"m1", "m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380", "prod", "313eb6a79b486703", "c0e6a6aa2cbafab7"},
		{"m3", "m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380", "prod", "cf962cbccefb2408", "c0e6a6aa2cbafab7"},
		{"cp1", "cp1=https://10.0.0.5:2380", "etcd-cluster", "a48f107742a8605c", "92f5ba9f47d993df"},
	}
}

func (f founding) founders() []Founder {
	urls := map[string][]string{}
	for pair := range strings.SplitSeq(f.cluster, ",") {
		name, u, _ := strings.Cut(pair, "=")
		urls[name] = append(urls[name], u)
	}
	var list []Founder
	for _, name := range slices.Sorted(maps.Keys(urls)) {
		list = append(list, Founder{Name: name, PeerURLs: urls[name]})
	}
	return list
}

func TestIDsAreEtcds(t *testing.T) {
	for _, f := range foundings() {
		members, id, err := Found(f.founders(), f.token)
		if err != nil {
			t.Fatal(err)
		}
		own := slices.IndexFunc(members, func(m Founder) bool { return m.Name == f.name })
		if got := members[own].ID.String(); got != f.member {
			t.Errorf("%s of %s, %q: member id %s, want %s", f.name, f.cluster, f.token, got, f.member)
		}
		if id.String() != f.id {
			t.Errorf("%s, %q: cluster id %s, want %s", f.cluster, f.token, id, f.id)
		}
	}
}

func TestFoundLeavesItsInputAlone(t *testing.T) {
	list := []Founder{{Name: "b", PeerURLs: []string{"http://b:2", "http://a:1"}}, {Name: "a", PeerURLs: []string{"http://c:1"}}}
	members, _, err := Found(list, "t")
	if err != nil || list[0].Name != "b" || list[0].ID != 0 || list[0].PeerURLs[0] != "http://b:2" {
		t.Errorf("input is now %v (%v)", list, err)
	}
	if members[0].ID >= members[1].ID {
		t.Errorf("not sorted by id: %v", members)
	}
}

func TestSameURLsSameID(t *testing.T) {
	_, _, err := Found([]Founder{{Name: "a", PeerURLs: []string{"http://a:1"}}, {Name: "b", PeerURLs: []string{"http://a:1"}}}, "t")
	if !errors.Is(err, ErrSameID) {
		t.Errorf("error: %v", err)
	}
}

func TestAddedMemberIsAnotherEachTime(t *testing.T) {
	urls := []string{"http://a:1"}
	at := time.Unix(1700000000, 0)
	if a, b := AddedMemberID(urls, at), AddedMemberID(urls, at.Add(time.Second)); a == b || a == MemberID(urls, "") {
		t.Errorf("ids: %s, %s, %s", a, b, MemberID(urls, ""))
	}
	if a, b := AddedMemberID(urls, at), AddedMemberID(urls, at.Add(time.Millisecond)); a != b {
		t.Errorf("within a second: %s, %s", a, b)
	}
}
